-- What runs with the rights of the owner is for those alone to whom it is granted.
REVOKE EXECUTE ON FUNCTION {s}.put_out, {s}.put_out_flow, {s}.outbox_withdraw, {s}.outbox_at_commit FROM PUBLIC;
