-- An invoice that KSeF has accepted: the ERP knows its KSeF number.
INSERT INTO synced_invoices (company_nip, environment, ksef_number, invoice_number)
VALUES ('5265877635', 'test', '5265877635-20260915-20273DF0F2E7-F1', 'FV/2026/09/001')
ON CONFLICT DO NOTHING;

-- One that was issued offline and sent later: the ERP knows what KSeF answered when it was sent,
-- the reference number of the session or of the invoice in it.
INSERT INTO offline_invoices (company_nip, environment, invoice_number, ksef_reference_number)
VALUES ('5265877635', 'test', 'FV/2026/09/002', '20260915-SO-00000001A1-0000000001-01')
ON CONFLICT DO NOTHING;

-- One that is about to be sent: the ERP knows nothing but its file. Written and committed before it
-- is sent, it is found again even if the ERP dies before KSeF's answer is stored.
INSERT INTO offline_invoices (company_nip, environment, invoice_number, invoice_hash)
VALUES ('5265877635', 'test', 'FV/2026/09/003', encode(sha256('<Faktura>…</Faktura>'), 'base64'))
ON CONFLICT DO NOTHING;

-- What the proxy has not linked yet.
SELECT invoice_number, ksef_number FROM synced_invoices
WHERE company_nip = '5265877635' AND environment = 'test' AND session_reference_number IS NULL
UNION ALL
SELECT invoice_number, ksef_reference_number FROM offline_invoices
WHERE company_nip = '5265877635' AND environment = 'test' AND session_reference_number IS NULL;
