-- Takes the lease or renews it, and tells what stands beside it. A token is INSTANCE:TERM. A term of ours may follow an
-- earlier one, but not the other way round: a request that was held up somewhere must not bring back what it was fenced by.
-- KEYS: lease, node set, epoch, placement. ARGV: token, ms to live, placement.
local holder = redis.call('GET', KEYS[1])
local gained = '0'
if holder == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
else
  local free = not holder
  if holder then
    local theirs, their_term = string.match(holder, '^([^:]*):(%d+)$')
    local ours, our_term = string.match(ARGV[1], '^([^:]*):(%d+)$')
    free = theirs == ours and tonumber(their_term) < tonumber(our_term)
  end
  if not free then return {'other', tostring(redis.call('PTTL', KEYS[1]))} end
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  gained = '1'
end
-- For as long as a lease, and no reason to fail: some master may not permit the key.
redis.pcall('SET', KEYS[4], ARGV[3], 'PX', ARGV[2])
-- Whatever else somebody may have put at these keys counts as nothing, and is written over.
local epoch = redis.pcall('GET', KEYS[3])
if type(epoch) ~= 'string' then epoch = '' end
local nodes = redis.pcall('HLEN', KEYS[2])
if type(nodes) ~= 'number' then nodes = 0 end
return {'held', gained, epoch, tostring(nodes)}
