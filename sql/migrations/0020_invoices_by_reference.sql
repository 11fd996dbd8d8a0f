-- An offline row may name an invoice by KSeF's reference number of it. Where it was written after its session was finished,
-- the session is found by that.
CREATE INDEX kept_invoices_reference ON kept_invoices (reference_number, company_nip, environment);
