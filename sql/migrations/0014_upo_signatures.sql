-- What was found out about the Ministry's signature on a UPO.

-- signature: the verdict; null in what was archived before, until it is given or `upo verify` comes to it. A broken one
-- can only have been archived before. signer, signed_at, certificate_sha256: where the signature fits. ksef_host: from
-- which it was fetched; null in what was archived before.
ALTER TABLE upos
    ADD COLUMN signature text
        CHECK (signature IN ('valid', 'unknown_signer', 'unverifiable', 'unsigned', 'broken')),
    ADD COLUMN signer text,
    ADD COLUMN signed_at timestamptz,
    ADD COLUMN certificate_sha256 text,
    ADD COLUMN ksef_host text;

-- Few, or none at all: the console counts them, and shows the certificates.
CREATE INDEX upos_unknown_signers ON upos (company_nip, environment, certificate_sha256)
    WHERE signature = 'unknown_signer';
