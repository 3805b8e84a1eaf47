-- The tables of every peer, and of the floor: those that a service with an inbox, an outbox and reservations that
-- run out needs, no wider than that. seq keeps the order of what is sent again after a crash.
CREATE TABLE stock (
    sku text COLLATE "C" PRIMARY KEY,
    available bigint NOT NULL CHECK (available >= 0),
    reserved bigint NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE inbox (
    id uuid PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now()
);

-- state: 1 held, 2 rejected
CREATE TABLE reservations (
    order_id uuid PRIMARY KEY,
    state smallint NOT NULL,
    items json NOT NULL,
    reserved_until timestamptz NOT NULL
);
CREATE INDEX ON reservations (reserved_until) WHERE state = 1;

CREATE TABLE outbox (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key text NOT NULL,
    event_id uuid NOT NULL,
    type text NOT NULL,
    traceparent text NOT NULL,
    value bytea NOT NULL
);
