-- Writes and publishes a map, if the lease is ours and no map is there that we do not know: all of it or nothing.
-- KEYS: lease, node set, epoch, rehomed, delta.
-- ARGV: token, epoch, the greatest epoch that we know, fields that the hash must have or 'any' to empty it first, epoch by which homes last changed, the deltas' channel, delta, the channel for whole maps or '', the channel of those who listen there for strangers only, number of fields to set, name, node …, names to remove …
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'fenced'} end
local stored = redis.pcall('GET', KEYS[3])
stored = type(stored) == 'string' and tonumber(stored) or 0
-- Beyond what a number holds exactly, and so nobody's.
if stored > 9007199254740991 then stored = 0 end
if tonumber(ARGV[3]) < stored then return {'stale', string.format('%.0f', stored)} end
if ARGV[4] == 'any' then
  redis.call('DEL', KEYS[2])
elseif redis.call('HLEN', KEYS[2]) ~= tonumber(ARGV[4]) then
  -- A new epoch must not vouch for a hash that somebody else has tampered with.
  return {'stale', string.format('%.0f', stored)}
end
local last = 10 + 2 * tonumber(ARGV[10])
for i = 11, last, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
for i = last + 1, #ARGV do redis.call('HDEL', KEYS[2], ARGV[i]) end
redis.call('SET', KEYS[3], ARGV[2])
redis.call('SET', KEYS[4], ARGV[5])
redis.call('SET', KEYS[5], ARGV[7])
redis.call('PUBLISH', ARGV[6], ARGV[7])
-- A whole map is large: it is put together only if somebody wants it. Who may not count the listeners sends it in any case.
local function is_wanted()
  local listeners = redis.pcall('PUBSUB', 'NUMSUB', ARGV[8], ARGV[9])
  local patterns = redis.pcall('PUBSUB', 'NUMPAT')
  return listeners.err or type(patterns) ~= 'number' or patterns > 0 or listeners[2] > listeners[4]
end
if ARGV[8] ~= '' and is_wanted() then
  local fields = redis.call('HGETALL', KEYS[2])
  local nodes = {}
  for i = 1, #fields, 2 do nodes[#nodes + 1] = cjson.encode(fields[i]) .. ':' .. fields[i + 1] end
  redis.call('PUBLISH', ARGV[8], '{"type":"update_nodes","nodeMap":{' .. table.concat(nodes, ',') .. '},"epoch":' .. ARGV[2] .. '}')
end
return {'done'}
