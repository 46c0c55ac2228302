--- Whether tasks end while some are due.
--- @include lib/clock

-- Store the time at which a task last ended, or held tasks became due. An alert starts if it does not change while tasks are due.
local function note_progress() call('SET', key.last_done, now) end
