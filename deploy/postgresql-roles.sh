#!/bin/sh
# The PostgreSQL image runs this once, on an empty volume. It creates the role that the API reads with.
set -eu
psql --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" --set ON_ERROR_STOP=1 --set "password=$POSTGRES_API_PASSWORD" <<'END'
CREATE ROLE gateway_api LOGIN PASSWORD :'password';
END
