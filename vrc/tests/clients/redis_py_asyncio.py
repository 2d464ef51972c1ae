"""redis_py_asyncio.py PORT PROTOCOL PASSWORD: many tasks at once through redis-py's asyncio client, every answer checked."""

import asyncio
import os
import sys

import redis.asyncio as redis
from redis.exceptions import ResponseError, WatchError

PORT, PROTOCOL, PASSWORD = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
TASKS = 40


def connect(**options):
    return redis.Redis(host="127.0.0.1", port=PORT, protocol=PROTOCOL, password=PASSWORD, socket_timeout=60, **options)


def equal(found, expected):
    assert found == expected, f"found {found!r}, expected {expected!r}"


async def work(r, task):
    """What one task does with keys of its own."""
    prefix = f"task:{task}"
    for number in range(25):
        key = f"{prefix}:{number}"
        equal(await r.set(key, number, ex=10_000), True)
        equal(await r.incrby(key, 1000), number + 1000)
        equal(await r.get(key), str(number + 1000).encode())
        equal(await r.hset(key + ":h", mapping={"task": task, "number": number}), 2)
        equal(await r.hgetall(key + ":h"), {b"task": str(task).encode(), b"number": str(number).encode()})
        equal(await r.rpush(key + ":l", *range(number + 1)), number + 1)
        equal(await r.lrange(key + ":l", 0, -1), [str(item).encode() for item in range(number + 1)])
        equal(await r.zadd(key + ":z", {"a": number, "b": number + 1}), 2)
        equal(await r.zscore(key + ":z", "b"), number + 1.0)
        equal(await r.sadd(key + ":s", task, number), len({task, number}))
        equal(await r.smembers(key + ":s"), {str(task).encode(), str(number).encode()})

    keys = [f"{prefix}:{number}" for number in range(25)]
    equal(await r.mget(keys), [str(number + 1000).encode() for number in range(25)])
    equal(await r.delete(*keys, "nothing"), 25)

    async with r.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.set(key, key).get(key).lpush(key, 1).mget(keys[0], key).unlink(key)
        answers = await pipe.execute(raise_on_error=False)
    for index, key in enumerate(keys):
        stored, found, failed, several, gone = answers[index * 5 : index * 5 + 5]
        assert isinstance(failed, ResponseError), failed
        key = key.encode()
        equal([stored, found, several, gone], [True, key, [key if index == 0 else None, key], 1])

    big = os.urandom(300_000)
    equal(await r.set(f"{prefix}:big", big), True)
    equal(await r.get(f"{prefix}:big"), big)
    equal(await r.eval("return ARGV[1] .. KEYS[1]", 1, prefix, "own "), b"own " + prefix.encode())
    try:
        await r.incr(f"{prefix}:big")
    except ResponseError as error:
        assert "not an integer" in str(error), error
    else:
        raise AssertionError("INCR of bytes is an error")


async def counting(r):
    """Some tasks count by optimistic locking: no count is lost."""
    tasks = 15

    async def count():
        async with r.pipeline() as pipe:
            while True:
                try:
                    await pipe.watch("counted")
                    before = int(await pipe.get("counted") or 0)
                    pipe.multi()
                    pipe.set("counted", before + 1)
                    return await pipe.execute()
                except WatchError:
                    pass

    equal(await asyncio.gather(*(count() for _ in range(tasks))), [[True]] * tasks)
    equal(await r.get("counted"), str(tasks).encode())


async def queues(r):
    """Each task waits for something of its own, while others push; and some wait in vain."""
    tasks = TASKS // 2
    waiting = asyncio.gather(*(r.blpop([f"{{queue:{task}}}a", f"{{queue:{task}}}b"], 30) for task in range(tasks)))
    while (await r.info("clients"))["blocked_clients"] < tasks:
        await asyncio.sleep(0.01)
    equal(await asyncio.gather(*(r.rpush(f"{{queue:{task}}}b", task) for task in range(tasks))), [1] * tasks)
    found = [tuple(each) for each in await waiting]
    equal(found, [(f"{{queue:{task}}}b".encode(), str(task).encode()) for task in range(tasks)])
    equal(await asyncio.gather(*(r.brpop(f"empty:{task}", 0.05) for task in range(tasks))), [None] * tasks)


async def channels(r):
    async with r.pubsub(ignore_subscribe_messages=True) as listener:
        await listener.subscribe("news", "weather")
        await listener.psubscribe("n?ws")
        while (await r.pubsub_numpat(), await r.pubsub_numsub("weather")) != (1, [(b"weather", 1)]):
            await listener.get_message(timeout=0.1)
        for number in range(100):
            equal(await r.publish("news", number), 2)
        heard = []
        while len(heard) < 200:
            message = await listener.get_message(timeout=20)
            if message:
                heard.append((message["type"], message["data"]))
        for kind in ["message", "pmessage"]:
            equal([data for each, data in heard if each == kind], [str(number).encode() for number in range(100)])


async def scripts(r):
    script = r.register_script("return redis.call('incrby', KEYS[1], ARGV[1])")
    answers = await asyncio.gather(*(script(keys=[f"script:{task}"], args=[task]) for task in range(TASKS)))
    equal(answers, list(range(TASKS)))


async def main():
    async with connect(max_connections=TASKS) as r:
        equal(await r.ping(), True)
        for together in [counting, queues, channels, scripts]:
            await together(r)
        await asyncio.gather(*(work(r, task) for task in range(TASKS)))
        assert (await r.info())["connected_clients"] >= 1
    async with connect(db=5, client_name="asyncio", decode_responses=True, single_connection_client=True) as r:
        equal(await r.exists("task:1:big"), 0)
        equal(await r.client_getname(), "asyncio")
        assert any(client["name"] == "asyncio" for client in await r.client_list())


asyncio.run(main())
print("all well")
