-- Lets those who ask read what there is to tell of nodes, if the lease is ours.
-- KEYS: lease, notes. ARGV: token, the notes or '' for none, ms to keep them.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '' then
  redis.call('DEL', KEYS[2])
else
  redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
end
return 1
