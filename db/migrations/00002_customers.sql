-- +goose Up

-- A backend that knows only its own customer ID reports by that.
CREATE INDEX connections_by_customer ON connections (customer_id, connection_id) WHERE customer_id <> '' AND status <> 'removed';
