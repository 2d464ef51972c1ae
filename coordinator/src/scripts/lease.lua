-- Takes the lease or renews it, and tells what stands beside it.
-- KEYS: lease, node set, epoch. ARGV: token, token before it or '', ms to live.
local holder = redis.call('GET', KEYS[1])
local gained = '0'
if holder == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
elseif not holder or (ARGV[2] ~= '' and holder == ARGV[2]) then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
  gained = '1'
else
  return {'other', tostring(redis.call('PTTL', KEYS[1]))}
end
-- Whatever else somebody may have put at these keys counts as nothing, and is written over.
local epoch = redis.pcall('GET', KEYS[3])
if type(epoch) ~= 'string' then epoch = '' end
local nodes = redis.pcall('HLEN', KEYS[2])
if type(nodes) ~= 'number' then nodes = 0 end
return {'held', gained, epoch, tostring(nodes)}
