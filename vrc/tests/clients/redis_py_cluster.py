"""redis_py_cluster.py PORT PROTOCOL [lose]: work through redis-py's RedisCluster, every answer checked.

With `lose` there is a second proxy: once it says "ready", the proxy at PORT goes away.
"""

import sys

from redis.cluster import RedisCluster
from redis.exceptions import ConnectionError, RedisClusterException, ResponseError, TimeoutError

PORT, PROTOCOL, LOSE = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] == ["lose"]


def equal(found, expected):
    assert found == expected, f"found {found!r}, expected {expected!r}"


def work(r):
    for number in range(300):
        equal(r.set(f"key:{number}", number), True)
        equal(r.get(f"key:{number}"), str(number).encode())
    equal(r.dbsize(), 300)
    equal(len(r.keys("*")), 300)
    equal({key for key in r.scan_iter(count=50)}, {f"key:{number}".encode() for number in range(300)})
    equal(r.mset_nonatomic({f"many:{number}": number for number in range(100)}) and True, True)
    equal(r.mget_nonatomic([f"many:{number}" for number in range(100)]), [str(number).encode() for number in range(100)])
    equal(r.mset({"{tag}a": 1, "{tag}b": 2}), True)
    equal(r.mget("{tag}a", "{tag}b"), [b"1", b"2"])
    equal(r.delete(*[f"many:{number}" for number in range(100)]), 100)
    with r.pipeline() as pipe:
        for number in range(300):
            pipe.incr(f"key:{number}")
        equal(pipe.execute(), [number + 1 for number in range(300)])
    with r.pipeline(transaction=True) as pipe:
        pipe.incr("{t}a")
        pipe.incrby("{t}b", 5)
        equal(pipe.execute(), [1, 5])
    equal(r.eval("return {KEYS[1], ARGV[1]}", 1, "k", "v"), [b"k", b"v"])
    script = r.register_script("return redis.call('incrby', KEYS[1], ARGV[1])")
    equal([script(keys=[f"script:{number}"], args=[7]) for number in range(50)], [7] * 50)
    equal(r.cluster_keyslot("{user1000}.following"), 3443)
    equal(r.cluster_info()["cluster_state"], "ok")
    [me] = [node for node in r.cluster_nodes().values() if "myself" in node["flags"]]
    equal(me["slots"], [["0", "16383"]])
    pubsub = r.pubsub()
    pubsub.subscribe("channel")
    equal(pubsub.get_message(timeout=20)["type"], "subscribe")
    assert r.publish("channel", "hello") in (0, 1)
    equal(pubsub.get_message(timeout=20)["data"], b"hello")
    pubsub.close()
    equal(r.flushall(), True)
    equal(r.dbsize(), 0)


with RedisCluster(host="127.0.0.1", port=PORT, protocol=PROTOCOL, socket_timeout=20) as client:
    work(client)
    if LOSE:
        equal(client.set("stays", 1), True)
        equal(len(client.get_nodes()), 2)
        equal(len(client.get_primaries()), 1)
        with RedisCluster(host="127.0.0.1", port=PORT, protocol=PROTOCOL, read_from_replicas=True) as reader:
            equal([reader.get("stays") for _ in range(10)], [b"1"] * 10)
        print("ready", flush=True)
        equal(sys.stdin.readline(), "gone\n")
        # The client looks for another on its own; how often an application has to try is the library's affair.
        for attempt in range(100):
            try:
                equal(client.get("stays"), b"1")
                equal(client.delete("stays"), 1)
                break
            except (ConnectionError, TimeoutError, RedisClusterException, ResponseError):
                pass
        work(client)
print("all well")
