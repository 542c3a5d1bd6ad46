-- What the role of workers, supervisors and operators needs. After a setup of a newer release, grant it again.
GRANT USAGE ON SCHEMA {s} TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {s} TO {role};
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA {s} TO {role};
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {s} TO {role};
