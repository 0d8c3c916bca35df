CREATE TABLE addresses (key BLOB PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TEMP VIEW known AS
    SELECT CAST(key AS TEXT) AS id,
        json_extract(CAST(value AS TEXT), '$.email') AS email,
        json_extract(CAST(value AS TEXT), '$.contact.known.email') AS contact_email,
        json_extract(CAST(value AS TEXT), '$.contact.known.contact_id') AS contact_id,
        iif(json_extract(CAST(value AS TEXT), '$.contact.known.ext_id'), '"owns"', '"claims"') AS claim
    FROM people;
INSERT OR REPLACE INTO addresses SELECT CAST('a' || email || char(31) || id AS BLOB), CAST('"claims"' AS BLOB)
    FROM known WHERE email IS NOT NULL;
INSERT OR REPLACE INTO addresses SELECT CAST('a' || contact_email || char(31) || id AS BLOB), CAST(claim AS BLOB)
    FROM known WHERE contact_email IS NOT NULL;
INSERT OR REPLACE INTO addresses SELECT CAST('c' || contact_id || char(31) || id AS BLOB), CAST(claim AS BLOB)
    FROM known WHERE contact_id IS NOT NULL;
DROP VIEW known;
