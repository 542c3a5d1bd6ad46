-- How this setup defines functions; it drops both procedures again at its end.

CREATE SCHEMA IF NOT EXISTS {s};

-- Create or replace a function. If one with the same arguments has another result, which cannot be replaced, it is dropped first;
-- the rights that roles had to it are granted again.
CREATE OR REPLACE PROCEDURE {s}.define(definition text) LANGUAGE plpgsql AS $$
DECLARE
    advice text;
    old text;
    rights aclitem[];
    grantee_ oid;
BEGIN
    EXECUTE definition;
EXCEPTION WHEN invalid_function_definition THEN
    GET STACKED DIAGNOSTICS advice = PG_EXCEPTION_HINT;
    old := substring(advice FROM 'DROP FUNCTION (.*\))'); -- the one command that every translation of the hint names
    IF old IS NULL THEN
        RAISE;
    END IF;
    SELECT proacl INTO rights FROM pg_proc WHERE oid = old::regprocedure;
    EXECUTE 'DROP FUNCTION ' || old;
    EXECUTE definition;
    IF rights IS NOT NULL THEN
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', old);
        FOR grantee_ IN SELECT grantee FROM aclexplode(rights) LOOP
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', old,
                           CASE grantee_ WHEN 0 THEN 'PUBLIC' ELSE grantee_::regrole::text END);
        END LOOP;
    END IF;
END $$;

-- Drop functions of these names that this setup has not defined: those of an earlier release with other arguments.
CREATE OR REPLACE PROCEDURE {s}.drop_others(names text[]) LANGUAGE plpgsql AS $$
DECLARE
    old regprocedure;
BEGIN
    FOR old IN SELECT oid FROM pg_proc WHERE pronamespace = '{s}'::regnamespace AND proname = ANY (names)
                  AND age(xmin) > 0 LOOP -- older than this transaction
        EXECUTE format('DROP FUNCTION %s', old);
    END LOOP;
END $$;
