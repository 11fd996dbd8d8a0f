-- Certificates beside KSeF tokens: the secret of one is the sealed key and certificate, and until
-- when the certificate is valid stands beside it, to be shown and warned of without opening it.

ALTER TABLE ksef_credentials
    ADD COLUMN certificate_valid_until timestamptz,
    ADD CONSTRAINT certificate_has_an_end
        CHECK ((method = 'certificate') = (certificate_valid_until IS NOT NULL));
