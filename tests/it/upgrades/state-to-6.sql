CREATE TABLE seen (key BLOB PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
UPDATE people SET value = CAST(
    json_set(CAST(value AS TEXT), '$.seen', CAST(strftime('%s', 'now') AS INTEGER) / 86400) AS BLOB);
INSERT INTO seen SELECT CAST(
    printf('%06d', json_extract(CAST(value AS TEXT), '$.seen')) || CAST(key AS TEXT) AS BLOB), x'' FROM people;
