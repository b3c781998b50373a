# shellcheck shell=bash disable=SC2154 # a part of demo.sh
# Where the demo's users are: each function adds them to the relay's config, whose last line is the name of the backend.

in_memory() {
    cat >> "$scratch/config.yaml" <<CONFIG
  memory:
    users:
      - {user: "alice@example.com", password: "$alice"}
      - {user: "bob@example.com", password: "$bob"}
CONFIG
}

in_sqlite() {
    echo '  sqlite: {path: accounts.db}' >> "$scratch/config.yaml"
    local manage=("$bin/msrprelay" user --config "$scratch/config.yaml")
    "${manage[@]}" add alice <<< "$alice" && "${manage[@]}" add bob <<< "$bob" || fail "no users"
    echo "Users in accounts.db: $("${manage[@]}" list | paste -sd ' ')"
}

remove_database() {
    rm -rf "$database"
}

database_answers() {
    "${client[@]}" <<< 'SELECT 1;' > /dev/null 2>&1
}

# A database server will not run as root, and need not see the rest of the scratch directory. Sets `as`, what runs it.
make_database() {
    as=(setpriv --pdeathsig TERM)
    database=$(mktemp -d "${TMPDIR:-/tmp}/msrp-demo-db.XXXXXX")
    at_end+=(remove_database)
    if [ "$(id -u)" = 0 ]; then
        chown nobody:nogroup "$database"
        as+=(--reuid nobody --regid nogroup --clear-groups)
    fi
    server_password=$(openssl rand -hex 12)
}

in_mysql() {
    local as own server_password
    make_database
    own=(--no-defaults --datadir="$database/data" --innodb-log-file-size=4M)
    logged "$scratch/database.log" "no database" \
        "${as[@]}" -- mariadb-install-db "${own[@]}" --auth-root-authentication-method=normal --skip-test-db
    start "$scratch/database.log" \
        "${as[@]}" -- mariadbd "${own[@]}" --skip-networking --socket="$database/socket" --pid-file="$database/pid"
    client=(mariadb --no-defaults --user=root --socket="$database/socket")
    await_seconds=30 await "$pid" MariaDB "$scratch/database.log" database_answers
    "${client[@]}" <<SQL || fail "no users"
CREATE DATABASE opensips; USE opensips;
CREATE TABLE subscriber (username CHAR(64), domain CHAR(64), ha1 CHAR(64), UNIQUE (username, domain));
INSERT INTO subscriber VALUES
    ('alice', 'example.com', MD5('alice:example.com:$alice')), ('bob', 'example.com', MD5('bob:example.com:$bob'));
CREATE USER msrprelay IDENTIFIED BY '$server_password';
GRANT SELECT (username, domain, ha1) ON opensips.subscriber TO msrprelay;
SQL
    cat >> "$scratch/config.yaml" <<CONFIG
  mysql: {url: "mysql://msrprelay:$server_password@localhost/opensips?socket=$database/socket"}
CONFIG
    echo "Users in a MariaDB at $database/socket"
}

in_postgres() {
    local as own server_password
    make_database
    # Its owner comes in by the socket, whose directory is its own; the relay by SCRAM.
    (umask 077 && echo "$server_password" > "$database/password")
    chown --reference="$database" "$database/password"
    logged "$scratch/database.log" "no database" \
        "${as[@]}" -- initdb -D "$database/data" -U postgres -A scram-sha-256 --pwfile="$database/password" --no-sync
    start "$scratch/database.log" \
        "${as[@]}" -- postgres -D "$database/data" -k "$database" -c listen_addresses= -c fsync=off
    export PGPASSWORD=$server_password
    client=(psql -X -q -v ON_ERROR_STOP=1 -h "$database" -U postgres -d postgres)
    await_seconds=30 await "$pid" PostgreSQL "$scratch/database.log" database_answers
    "${client[@]}" <<SQL || fail "no users"
CREATE DATABASE opensips;
CREATE ROLE msrprelay LOGIN PASSWORD '$server_password';
\\c opensips
CREATE TABLE subscriber (username VARCHAR(64), domain VARCHAR(64), ha1 VARCHAR(64), UNIQUE (username, domain));
INSERT INTO subscriber VALUES
    ('alice', 'example.com', MD5('alice:example.com:$alice')), ('bob', 'example.com', MD5('bob:example.com:$bob'));
GRANT SELECT (username, domain, ha1) ON subscriber TO msrprelay;
SQL
    unset PGPASSWORD
    cat >> "$scratch/config.yaml" <<CONFIG
  postgres: {url: "postgres://msrprelay:$server_password@localhost/opensips?host=$database"}
CONFIG
    echo "Users in a PostgreSQL at $database"
}
