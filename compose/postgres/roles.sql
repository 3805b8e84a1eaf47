-- Once, when the database is made: the services' own role, which can make schemas in its database and nothing else.
\set password `cat /run/secrets/database-password`
CREATE ROLE weir LOGIN PASSWORD :'password';
REVOKE ALL ON DATABASE weir FROM PUBLIC;
GRANT CONNECT, TEMPORARY, CREATE ON DATABASE weir TO weir;
