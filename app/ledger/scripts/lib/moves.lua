--- The move of an account to another cell, or from one. The hash exists from the beginning of the move, in the cell that the account
--- leaves it is kept afterwards: no task of the account runs there. The phase is also stored for each hook of the account.
--- @field phase copying (deliveries are accepted), closed (none is accepted), moved (the account has left), or arriving
--- @field id the same in both cells
--- @field cell the other cell, without its password
--- @field hooks the hooks of the account
--- @field begun_at when the move began
--- @include lib/tasks
--- @include lib/deliveries

local function hook_of(delivery) return head_field(call('GETRANGE', delivery_key(delivery), 0, 255), 'h') end

local function is_moving(task)
  local delivery = string.match(task, '^event:(.*)$')
  local mark = delivery and key.move_hook .. (hook_of(delivery) or '') or key.move .. account_of(task)
  return call('EXISTS', mark) == 1
end
