-- Orders nodes to be purged, if the lease is ours.
-- KEYS: lease, orders, progress. ARGV: token, number of orders, name, order …, names of nodes that are gone …
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local last = 2 + 2 * tonumber(ARGV[2])
for i = 3, last, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
for i = last + 1, #ARGV do
  redis.call('HDEL', KEYS[2], ARGV[i])
  redis.call('HDEL', KEYS[3], ARGV[i])
end
return 1
