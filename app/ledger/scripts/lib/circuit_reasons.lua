--- Why an open circuit holds a task.

-- The kind of a circuit -> a key of reasons.py.
local CIRCUIT_REASONS = {
  down = 'api_down', unauthorized = 'token_rejected', rate_limited = 'api_rate_limited', paused = 'account_paused',
}
