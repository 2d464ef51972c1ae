"""redis_py.py PORT PROTOCOL PASSWORD [hiredis]: typical work through redis-py, every answer checked.

Replies are read by the library's own code, or else by hiredis' (which the other programs take, since it is installed).
"""

import os
import sys
import threading

if sys.argv[4:] != ["hiredis"]:
    # Importing it fails from here on, as where it is not installed.
    sys.modules["hiredis"] = None
import redis
from redis.exceptions import AuthenticationError, ConnectionError, LockError, NoScriptError, ResponseError, WatchError

PORT, PROTOCOL, PASSWORD = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]


def connect(password=PASSWORD, **options):
    return redis.Redis(host="127.0.0.1", port=PORT, protocol=PROTOCOL, password=password, socket_timeout=60, **options)


def equal(found, expected):
    assert found == expected, f"found {found!r}, expected {expected!r}"


def fails(call, *words):
    try:
        found = call()
    except ResponseError as error:
        assert all(word in str(error) for word in words), f"found {error!r}, expected {words!r}"
    else:
        raise AssertionError(f"found {found!r}, expected an error")


def login(r):
    with connect(password="wrong") as stranger:
        try:
            stranger.ping()
        except AuthenticationError as error:
            assert "invalid username-password pair or user is disabled" in str(error), error
        else:
            raise AssertionError("a wrong password is let in")


def strings(r):
    equal(r.set("s", "value"), True)
    equal(r.get("s"), b"value")
    equal(r.set("s", "other", nx=True), None)
    equal(r.set("s", "other", get=True), b"value")
    equal(r.append("s", "!"), 6)
    equal(r.getrange("s", 1, -2), b"ther")
    equal(r.setrange("s", 0, "O"), 6)
    equal(r.strlen("s"), 6)
    equal(r.getdel("s"), b"Other!")
    equal(r.get("s"), None)
    equal(r.incr("n"), 1)
    equal(r.incrby("n", 41), 42)
    equal(r.decr("n", 2), 40)
    equal(r.incrbyfloat("n", 0.5), 40.5)
    equal(r.setbit("bits", 7, 1), 0)
    equal((r.getbit("bits", 7), r.bitcount("bits"), r.bitpos("bits", 1)), (1, 1, 7))
    equal(r.pfadd("hll", "a", "b", "c"), 1)
    equal(r.pfcount("hll"), 3)
    equal(r.type("s"), b"none")
    equal(r.type("n"), b"string")
    equal(r.object("encoding", "n"), b"embstr")


def hashes(r):
    equal(r.hset("h", mapping={"a": 1, "b": "two", "c": 3.5}), 3)
    equal(r.hset("h", "a", 2), 0)
    equal(r.hget("h", "a"), b"2")
    equal(r.hmget("h", "a", "nothing", "b"), [b"2", None, b"two"])
    equal(r.hgetall("h"), {b"a": b"2", b"b": b"two", b"c": b"3.5"})
    equal(r.hincrby("h", "a", 5), 7)
    equal(r.hincrbyfloat("h", "c", 0.25), 3.75)
    equal(sorted(r.hkeys("h")), [b"a", b"b", b"c"])
    equal((r.hlen("h"), r.hexists("h", "z"), r.hstrlen("h", "b")), (3, False, 3))
    equal(dict(r.hscan_iter("h")), {b"a": b"7", b"b": b"two", b"c": b"3.75"})
    equal(r.hdel("h", "a", "b", "z"), 2)
    equal(len(r.hrandfield("h", 2)), 1)


def lists(r):
    equal(r.rpush("l", "b", "c", "d"), 3)
    equal(r.lpush("l", "a"), 4)
    equal(r.lrange("l", 0, -1), [b"a", b"b", b"c", b"d"])
    equal(r.linsert("l", "before", "c", "x"), 5)
    equal(r.lpos("l", "x"), 2)
    equal((r.lindex("l", 2), r.llen("l")), (b"x", 5))
    equal(r.lset("l", 2, "y"), True)
    equal(r.lrem("l", 1, "y"), 1)
    equal((r.lpop("l"), r.rpop("l"), r.lpop("l", 5)), (b"a", b"d", [b"b", b"c"]))
    equal((r.lpop("l"), r.lpop("l", 2)), (None, None))
    equal(r.rpush("{l}1", *range(10)), 10)
    equal(r.lmove("{l}1", "{l}2", "LEFT", "RIGHT"), b"0")
    equal(r.rpoplpush("{l}1", "{l}2"), b"9")
    equal(r.ltrim("{l}1", 0, 2), True)
    equal(r.lrange("{l}1", 0, -1), [b"1", b"2", b"3"])
    equal(r.sort("{l}2", desc=True), [b"9", b"0"])


def sets(r):
    equal(r.sadd("{s}1", 1, 2, 3, 4), 4)
    equal(r.sadd("{s}2", 3, 4, 5), 3)
    equal(r.smembers("{s}2"), {b"3", b"4", b"5"})
    equal(r.sinter("{s}1", "{s}2"), {b"3", b"4"})
    equal(r.sunion("{s}1", "{s}2"), {b"1", b"2", b"3", b"4", b"5"})
    equal(r.sdiff(["{s}1", "{s}2"]), {b"1", b"2"})
    equal(r.sintercard(2, ["{s}1", "{s}2"]), 2)
    equal(r.sinterstore("{s}3", "{s}1", "{s}2"), 2)
    equal(r.smismember("{s}3", 3, 5), [1, 0])
    equal((r.scard("{s}3"), r.sismember("{s}3", 4), r.srem("{s}3", 4, 9)), (2, 1, 1))
    equal(r.spop("{s}3"), b"3")
    equal(set(r.sscan_iter("{s}1")), {b"1", b"2", b"3", b"4"})


def sorted_sets(r):
    equal(r.zadd("z", {"one": 1, "two": 2, "three": 3.5}), 3)
    equal(r.zincrby("z", 10, "one"), 11.0)
    equal(r.zscore("z", "three"), 3.5)
    equal(r.zmscore("z", ["two", "nothing"]), [2.0, None])
    equal(r.zrange("z", 0, -1), [b"two", b"three", b"one"])
    equal(dict(r.zrangebyscore("z", "-inf", "(11", withscores=True)), {b"two": 2.0, b"three": 3.5})
    equal(r.zrevrange("z", 0, 0), [b"one"])
    equal((r.zrank("z", "one"), r.zrank("z", "nothing"), r.zcard("z"), r.zcount("z", 2, 4)), (2, None, 3, 2))
    equal(dict(r.zpopmin("z", 2)), {b"two": 2.0, b"three": 3.5})
    equal(r.zadd("{z}1", {"a": 1, "b": 2}), 2)
    equal(r.zunionstore("{z}2", ["{z}1", "z"]), 3)
    equal(r.zremrangebyscore("{z}1", 2, 2), 1)
    equal(r.geoadd("geo", (13.361389, 38.115556, "Palermo")), 1)
    equal(r.geodist("geo", "Palermo", "Palermo"), 0.0)


def streams(r):
    equal(r.xadd("x", {"a": 1}, id="1-1"), b"1-1")
    equal(r.xadd("x", {"a": 2}, id="1-2"), b"1-2")
    equal(r.xlen("x"), 2)
    equal(r.xrange("x"), [(b"1-1", {b"a": b"1"}), (b"1-2", {b"a": b"2"})])
    equal(r.xgroup_create("x", "group", "0"), True)
    assert r.xreadgroup("group", "me", {"x": ">"}, count=1)
    equal(r.xack("x", "group", "1-1"), 1)
    equal(r.xtrim("x", maxlen=1, approximate=False), 1)


def many_keys(r):
    pairs = {f"many:{number}": f"value {number}" for number in range(1000)}
    equal(r.mset(pairs), True)
    equal(r.mget(list(pairs)), [value.encode() for value in pairs.values()])
    equal(r.mget("many:5", "nothing", "many:5"), [b"value 5", None, b"value 5"])
    equal(r.exists(*pairs, "many:1", "nothing"), 1001)
    equal(r.touch(*pairs), 1000)
    equal(r.delete(*list(pairs)[:600]), 600)
    equal(r.unlink(*pairs), 400)
    # An element of another type is null, as redis has it.
    r.rpush("a list", 1)
    equal(r.mget("a list", "nothing"), [None, None])


def pipelines(r):
    with r.pipeline(transaction=False) as pipe:
        for number in range(500):
            pipe.set(f"pipe:{number}", number)
            pipe.incr(f"pipe:{number}")
            pipe.mget(f"pipe:{number}", "nothing", f"pipe:{number - 1}")
        answers = pipe.execute()
    for number in range(500):
        before = str(number).encode() if number else None
        equal(answers[number * 3 : number * 3 + 3], [True, number + 1, [str(number + 1).encode(), None, before]])
    with r.pipeline(transaction=False) as pipe:
        pipe.set("p", "text").incr("p").get("p").lpush("p", 1).delete("p")
        answers = pipe.execute(raise_on_error=False)
    assert isinstance(answers[1], ResponseError) and isinstance(answers[3], ResponseError), answers
    equal([answers[0], answers[2], answers[4]], [True, b"text", 1])
    # The library writes all of a pipeline before it reads any answer.
    big = os.urandom(200_000)
    with r.pipeline(transaction=False) as pipe:
        for number in range(200):
            pipe.set(f"big:{number % 7}", big).get(f"big:{number % 7}")
        equal(pipe.execute() == [True, big] * 200, True)
    equal(r.delete(*(f"big:{number}" for number in range(7))), 7)


def transactions(r):
    with r.pipeline(transaction=True) as pipe:
        pipe.set("{t}a", 1).lpush("{t}a", 1).mget("{t}a", "{t}b")
        done, failed, found = pipe.execute(raise_on_error=False)
    assert isinstance(failed, ResponseError) and "wrong kind of value" in str(failed), failed
    equal((done, found), (True, [b"1", None]))
    with r.pipeline() as pipe:
        pipe.watch("{t}a")
        before = int(pipe.get("{t}a"))
        r.set("{t}a", 7)
        pipe.multi()
        pipe.set("{t}a", before + 1)
        try:
            found = pipe.execute()
        except WatchError:
            pass
        else:
            raise AssertionError(f"found {found}, though somebody else was faster")
    # The library's own loop around the same; the first time somebody is faster.
    attempts = []

    def add(pipe):
        before = int(pipe.get("{t}a"))
        if not attempts:
            r.incr("{t}a")
        attempts.append(before)
        pipe.multi()
        pipe.set("{t}a", before + 10)

    equal((r.transaction(add, "{t}a"), attempts, r.get("{t}a")), ([True], [7, 8], b"18"))


def expiry(r):
    equal(r.set("e", 1, ex=100), True)
    assert 40 <= r.ttl("e") <= 100
    assert 40_000 <= r.pttl("e") <= 100_000
    equal(r.persist("e"), True)
    equal((r.ttl("e"), r.ttl("nothing")), (-1, -2))
    equal(r.expire("e", 50, gt=True), False)
    equal(r.pexpire("e", 1), True)
    for _ in range(10_000):
        if r.get("e") is None:
            break
    else:
        raise AssertionError("the key does not expire")
    equal(r.set("e", "again", ex=100), True)
    equal(r.getex("e", persist=True), b"again")


def errors(r):
    r.set("text", "abc")
    fails(lambda: r.incr("text"), "value is not an integer or out of range")
    for call, words in [
        (lambda: r.lpush("text", 1), "Operation against a key holding the wrong kind of value"),
        (lambda: r.execute_command("GET"), "wrong number of arguments for 'get' command"),
        (lambda: r.execute_command("NONSENSE", "a"), "unknown command 'NONSENSE', with args beginning with: 'a'"),
        (lambda: r.execute_command("SET", "k", "v", "what"), "syntax error"),
        (lambda: r.expire("text", "soon"), "value is not an integer or out of range"),
        (lambda: r.rename("{t}nothing", "{t}other"), "no such key"),
    ]:
        fails(call, words)
    equal(r.get("text"), b"abc")


def big_and_binary(r):
    big = os.urandom(1024 * 1024)
    equal(r.set("big", big), True)
    equal(r.get("big"), big)
    equal(r.mset({"big1": big, "big2": b"", "big3": big[:70_000]}), True)
    equal(r.mget("big2", "big3", "big", "big1"), [b"", big[:70_000], big, big])
    for key in [b"\x00", b"\r\n", b"*1\r\n$4\r\nPING\r\n", bytes(range(256)), b"{\xff}\xfe", b""]:
        equal(r.set(key, key), True)
        equal(r.get(key), key)
        equal(r.delete(key), 1)
    equal(r.echo(big), big)


def databases(r):
    r.set("db", "zero")
    with connect(db=3) as other:
        equal(other.get("db"), None)
        equal(other.set("db", "three"), True)
        equal(r.get("db"), b"zero")
        equal(other.get("db"), b"three")
        equal(other.delete("db"), 1)
    with connect(single_connection_client=True) as one:
        equal(one.select(2), True)
        equal(one.exists("db"), 0)
        equal(one.select(0), True)
        equal(one.get("db"), b"zero")
        fails(lambda: one.select(1000), "DB index is out of range")


def connection(r):
    equal(r.ping(), True)
    equal(r.echo("hello"), b"hello")
    with connect(client_name="tester", decode_responses=True, single_connection_client=True) as one:
        equal(one.client_getname(), "tester")
        equal(one.client_setname("renamed"), True)
        id = one.client_id()
        [me] = [client for client in one.client_list() if client["id"] == str(id)]
        equal((me["name"], me["db"]), ("renamed", "0"))
        equal(one.client_info()["id"], id)
    info = r.info()
    assert info["redis_version"][0].isdigit() and info["role"] == "master" and info["connected_clients"] >= 1, info
    assert r.info("clients")["connected_clients"] >= 1
    seconds, microseconds = r.time()
    assert seconds > 1_600_000_000 and 0 <= microseconds < 1_000_000
    equal(r.command_count() > 200, True)
    equal(r.config_get("maxmemory"), {"maxmemory": "0"})


def scripts(r):
    equal(r.eval("return {KEYS[1], ARGV[1], 7}", 1, "k", "v"), [b"k", b"v", 7])
    equal(r.eval("redis.call('mset', KEYS[1], 1, KEYS[2], 2) return redis.call('mget', KEYS[1], KEYS[2])", 2, "{e}1", "{e}2"), [b"1", b"2"])
    fails(lambda: r.eval("return redis.error_reply('MINE own error')", 1, "k"), "own error")
    # It sends EVALSHA, and loads the script once it was told NOSCRIPT.
    script = r.register_script("return redis.call('incrby', KEYS[1], ARGV[1])")
    equal([script(keys=[f"script:{number}"], args=[7]) for number in range(50)], [7] * 50)
    with r.pipeline(transaction=False) as pipe:
        for number in range(50):
            script(keys=[f"script:{number}"], args=[1], client=pipe)
        equal(pipe.execute(), [8] * 50)
    try:
        r.evalsha("f" * 40, 1, "k")
    except NoScriptError:
        pass
    else:
        raise AssertionError("a script that was never loaded runs")


def locks(r):
    lock = r.lock("locked", timeout=50)
    equal(lock.acquire(blocking=False), True)
    equal(r.lock("locked").acquire(blocking=False), False)
    equal((lock.extend(10), lock.reacquire(), lock.locked(), lock.owned()), (True, True, True, True))
    lock.release()
    try:
        lock.release()
    except LockError:
        pass
    else:
        raise AssertionError("a lock is released twice")


def blocking(r):
    equal(r.blpop("queue", timeout=0.05), None)
    for wait, push, pushed, expected in [
        (lambda: r.blpop(["{q}1", "{q}2"], 30), lambda: r.rpush("{q}2", "pushed"), 1, (b"{q}2", b"pushed")),
        (lambda: r.blmove("{q}1", "{q}2", 30), lambda: r.lpush("{q}1", "moved"), 1, b"moved"),
        (lambda: r.bzpopmin("ranking", 30), lambda: r.zadd("ranking", {"first": 1.5}), 1, (b"ranking", b"first", 1.5)),
        (lambda: len(r.xread({"log": "$"}, block=30_000)), lambda: r.xadd("log", {"f": "v"}, id="5-1"), b"5-1", 1),
    ]:
        found = []
        waiting = threading.Thread(target=lambda: found.append(wait()))
        waiting.start()
        while r.info("clients")["blocked_clients"] != 1:
            pass
        equal(push(), pushed)
        waiting.join()
        found = [type(expected)(each) if isinstance(expected, tuple) else each for each in found]
        equal(found, [expected])
        while r.info("clients")["blocked_clients"] != 0:
            pass


def scanning(r):
    names = [f"scan:{number}" for number in range(2000)]
    r.mset(dict.fromkeys(names, 1))
    equal(sorted(r.scan_iter(match="scan:*", count=100)), sorted(name.encode() for name in names))
    equal(r.delete(*names), 2000)


def killed(r):
    """The library connects again by itself."""
    with connect(single_connection_client=True) as one:
        equal(one.set("kept", 1), True)
        equal(r.client_kill_filter(_id=one.client_id()), 1)
        try:
            found = one.get("kept")
        except ConnectionError:
            found = one.get("kept")
        equal(found, b"1")


def hash_tags(r):
    equal(r.mset({"{user:1}.name": "Ann", "{user:1}.mail": "ann@x", "{user:1}.n": 3}), True)
    equal(r.msetnx({"{user:1}.name": "Bob", "{user:1}.new": 1}), False)
    equal(r.rename("{user:1}.name", "{user:1}.alias"), True)
    equal(r.copy("{user:1}.alias", "{user:1}.copy"), True)
    equal(r.get("{user:1}.copy"), b"Ann")
    equal(r.bitop("AND", "{user:1}.and", "{user:1}.alias", "{user:1}.copy"), 3)
    equal(r.dump("{user:1}.alias") == r.dump("{user:1}.copy"), True)


def next_message(pubsub):
    message = pubsub.get_message(ignore_subscribe_messages=True, timeout=20)
    while message is None:
        message = pubsub.get_message(ignore_subscribe_messages=True, timeout=20)
    return message["channel"], message["data"]


def publishing(r):
    # Enough listeners that workers share them.
    listeners = [r.pubsub() for _ in range(5)]
    for listener in listeners:
        listener.subscribe("news")
        listener.get_message(timeout=20)
    listeners[0].psubscribe("n*s")
    listeners[0].get_message(timeout=20)
    equal(r.publish("news", "hello"), 6)
    equal(r.pubsub_numsub("news", "none"), [(b"news", 5), (b"none", 0)])
    equal((r.pubsub_channels("n*"), r.pubsub_numpat()), ([b"news"], 1))
    equal([next_message(listener) for listener in listeners + listeners[:1]], [(b"news", b"hello")] * 6)
    # Messages while a pipeline is on its way.
    with r.pipeline(transaction=False) as pipe:
        for number in range(1000):
            pipe.publish("stream", number)
        listeners[1].subscribe("stream")
        listeners[1].get_message(timeout=20)
        equal(pipe.execute(), [1] * 1000)
    equal([next_message(listeners[1])[1] for _ in range(1000)], [str(number).encode() for number in range(1000)])
    with r.pipeline(transaction=True) as pipe:
        pipe.set("published", 1).publish("news", "in a transaction").publish("other", "nobody").get("published")
        equal(pipe.execute(), [True, 6, 0, b"1"])
    equal(next_message(listeners[4]), (b"news", b"in a transaction"))
    for listener in listeners:
        listener.unsubscribe()
        listener.punsubscribe()
        while listener.subscribed:
            listener.get_message(timeout=20)
        listener.close()
    equal((r.publish("news", "to nobody"), r.pubsub_channels()), (0, []))


def client_side_cache(r):
    from redis.cache import CacheConfig
    from redis.connection import CacheProxyConnection

    # The library asks for a newer server than it needs.
    CacheProxyConnection.MIN_ALLOWED_VERSION = "6.0.0"
    with connect(cache_config=CacheConfig(max_size=1000)) as cached:
        cache = cached.get_cache()
        names = [f"cached:{number}" for number in range(50)]
        r.mset({name: "old" for name in names})
        for name in names:
            equal((cached.get(name), cached.get(name)), (b"old", b"old"))
        # Entries that are kept are what is answered from.
        assert cache.size >= len(names), cache.size
        for name in names:
            r.set(name, "new")
        # The library looks for invalidations before it answers from what it keeps.
        for name in names:
            for _ in range(10_000):
                if cached.get(name) == b"new":
                    break
            else:
                raise AssertionError(f"{name} stays old")
        equal(cached.mget("cached:1", "cached:2", "nothing"), [b"new", b"new", None])
        equal(r.delete(*names), len(names))


def decoded():
    with connect(decode_responses=True) as r:
        equal(r.set("ключ", "значение"), True)
        equal(r.get("ключ"), "значение")
        equal(r.hset("dh", "ü", "ö"), 1)
        equal(r.hgetall("dh"), {"ü": "ö"})


with connect() as client:
    for work in [
        login,
        strings,
        hashes,
        lists,
        sets,
        sorted_sets,
        streams,
        many_keys,
        pipelines,
        transactions,
        expiry,
        errors,
        big_and_binary,
        databases,
        connection,
        scripts,
        locks,
        blocking,
        scanning,
        killed,
        hash_tags,
        publishing,
    ]:
        work(client)
    if PROTOCOL == 3:
        client_side_cache(client)
decoded()
print("all well")
