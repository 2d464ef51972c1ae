-- Epoch and hash as they stand together: the epoch or '', the epoch by which homes last changed or '', then name, node, name, node …
-- KEYS: node set, epoch, rehomed.
local epoch = redis.pcall('GET', KEYS[2])
if type(epoch) ~= 'string' then epoch = '' end
local rehomed = redis.pcall('GET', KEYS[3])
if type(rehomed) ~= 'string' then rehomed = '' end
local answer = {epoch, rehomed}
local fields = redis.pcall('HGETALL', KEYS[1])
if not fields.err then
  for i = 1, #fields do answer[i + 2] = fields[i] end
end
return answer
