-- name: active_simulation(company_nip, environment)^
-- The company's own simulation before one for all. Production is never simulated, whatever the table says.
SELECT environment, company_nip, message, starts_at, ends_at
FROM outage_simulations
WHERE environment = :environment
  AND environment <> 'prod'
  AND (company_nip = :company_nip OR company_nip IS NULL)
  AND starts_at <= now()
  AND (ends_at IS NULL OR ends_at > now())
ORDER BY company_nip NULLS LAST
LIMIT 1;

-- name: simulated_environments()
-- Environments in which every company meets a simulation.
SELECT DISTINCT environment
FROM outage_simulations
WHERE environment <> 'prod'
  AND company_nip IS NULL
  AND starts_at <= now()
  AND (ends_at IS NULL OR ends_at > now());

-- name: forbidden_simulations()$
SELECT count(*) FROM outage_simulations WHERE environment = 'prod';

-- name: simulate(company_nip, environment, message, ends_at)^
INSERT INTO outage_simulations (environment, company_nip, message, ends_at)
VALUES (:environment, :company_nip, :message, :ends_at)
ON CONFLICT (environment, company_nip) DO UPDATE
SET message = excluded.message, starts_at = now(), ends_at = excluded.ends_at
RETURNING environment, company_nip, message, starts_at, ends_at;

-- name: clear_simulation(company_nip, environment)!
DELETE FROM outage_simulations
WHERE environment = :environment
  AND company_nip IS NOT DISTINCT FROM :company_nip;

-- name: clear_simulations(environment)!
DELETE FROM outage_simulations WHERE environment = :environment;
