-- Texts in `endpoint.secrets`, `endpoint.definition` and `creation_record.seed` may be sealed from here on: "sealed:KEY:…".
-- A deleted endpoint keeps nothing that its receiver trusts in, a client key neither.
UPDATE endpoint SET secrets = '[]', definition = CASE WHEN definition IS NOT NULL THEN '{}' END WHERE deleted_at IS NOT NULL;

-- 1: secrets in clear, or under an older key, may stand in the file or in unused parts of its pages.
INSERT INTO meta (name, value) SELECT 'secret_traces', EXISTS (SELECT 1 FROM endpoint WHERE origin = 'api');
