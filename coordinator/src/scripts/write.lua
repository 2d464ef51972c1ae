-- Writes and publishes a map, if the lease is ours and no map as new is there: all of it or nothing.
-- KEYS: lease, node set, epoch, rehomed.
-- ARGV: token, epoch, fields that the hash must have or 'any' to empty it first, channel, message, epoch by which homes last changed, number of fields to set, name, node …, names to remove …
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'fenced'} end
local stored = redis.pcall('GET', KEYS[3])
stored = type(stored) == 'string' and tonumber(stored) or 0
-- Beyond what a number holds exactly, and so nobody's.
if stored > 9007199254740991 then stored = 0 end
if tonumber(ARGV[2]) <= stored then return {'stale', string.format('%.0f', stored)} end
if ARGV[3] == 'any' then
  redis.call('DEL', KEYS[2])
elseif redis.call('HLEN', KEYS[2]) ~= tonumber(ARGV[3]) then
  -- A new epoch must not vouch for a hash that somebody else has tampered with.
  return {'stale', string.format('%.0f', stored)}
end
local last = 7 + 2 * tonumber(ARGV[7])
for i = 8, last, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
for i = last + 1, #ARGV do redis.call('HDEL', KEYS[2], ARGV[i]) end
redis.call('SET', KEYS[3], ARGV[2])
redis.call('SET', KEYS[4], ARGV[6])
redis.call('PUBLISH', ARGV[4], ARGV[5])
return {'done'}
