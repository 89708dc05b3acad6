#!/bin/sh
# Run once by the image of PostgreSQL, on an empty volume: the role that answers the API, with its password.
set -eu
psql --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" --set ON_ERROR_STOP=1 --set "password=$POSTGRES_API_PASSWORD" <<'END'
CREATE ROLE gateway_api LOGIN PASSWORD :'password';
END
