-- Epoch and hash as they stand together: the epoch or '', then name, node, name, node …
-- KEYS: node set, epoch.
local epoch = redis.pcall('GET', KEYS[2])
if type(epoch) ~= 'string' then epoch = '' end
local answer = {epoch}
local fields = redis.pcall('HGETALL', KEYS[1])
if not fields.err then
  for i = 1, #fields do answer[i + 1] = fields[i] end
end
return answer
