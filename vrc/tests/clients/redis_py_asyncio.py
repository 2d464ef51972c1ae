"""redis_py_asyncio.py PORT PROTOCOL: many tasks at once through redis-py's asyncio client, every answer checked."""

import asyncio
import os
import sys

import redis.asyncio as redis
from redis.exceptions import ResponseError

PORT, PROTOCOL = int(sys.argv[1]), int(sys.argv[2])
TASKS = 40


def connect(**options):
    return redis.Redis(host="127.0.0.1", port=PORT, protocol=PROTOCOL, socket_timeout=20, **options)


def equal(found, expected):
    assert found == expected, f"found {found!r}, expected {expected!r}"


async def work(r, task):
    """What one task does with keys of its own."""
    prefix = f"task:{task}"
    for number in range(25):
        key = f"{prefix}:{number}"
        equal(await r.set(key, number, ex=100), True)
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


async def main():
    async with connect(max_connections=TASKS) as r:
        equal(await r.ping(), True)
        await asyncio.gather(*(work(r, task) for task in range(TASKS)))
        assert (await r.info())["connected_clients"] >= 1
    async with connect(db=5, client_name="asyncio", decode_responses=True, single_connection_client=True) as r:
        equal(await r.exists("task:1:big"), 0)
        equal(await r.client_getname(), "asyncio")
        assert any(client["name"] == "asyncio" for client in await r.client_list())


asyncio.run(main())
print("all well")
