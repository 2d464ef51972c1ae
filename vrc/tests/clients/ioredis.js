// ioredis.js PORT PROTOCOL: typical work through ioredis, every answer checked.

const crypto = require('node:crypto');
const { library, equal, fails, main, port, protocol } = require('./check');
const { Redis } = library('ioredis');

const connect = (options) => new Redis({ host: '127.0.0.1', port, protocol, maxRetriesPerRequest: 0, ...options });

async function values(r) {
    equal(await r.set('s', 'value', 'EX', 100), 'OK');
    equal(await r.set('s', 'other', 'NX'), null);
    equal(await r.get('s'), 'value');
    equal(await r.append('s', '!'), 6);
    equal(await r.getrange('s', 1, 2), 'al');
    equal((await r.ttl('s')) > 90, true);
    equal(await r.incr('n'), 1);
    equal(await r.incrby('n', 9), 10);
    equal(await r.incrbyfloat('n', 0.5), '10.5');
    equal(await r.hset('h', { a: 1, b: 'two' }), 2);
    equal(await r.hgetall('h'), { a: '1', b: 'two' });
    equal(await r.hmget('h', 'b', 'nothing'), ['two', null]);
    equal(await r.hincrby('h', 'a', 4), 5);
    equal(await r.rpush('l', 1, 2, 3), 3);
    equal(await r.lrange('l', 0, -1), ['1', '2', '3']);
    equal(await r.lpop('l', 2), ['1', '2']);
    equal(await r.lmove('{l}', '{l}2', 'LEFT', 'LEFT'), null);
    equal(await r.sadd('{set}1', 'a', 'b'), 2);
    equal(await r.sadd('{set}2', 'b', 'c'), 2);
    equal(await r.sinter('{set}1', '{set}2'), ['b']);
    equal((await r.sunion('{set}1', '{set}2')).sort(), ['a', 'b', 'c']);
    equal(await r.zadd('z', 1, 'one', 2.5, 'two'), 2);
    equal((await r.zrange('z', 0, -1, 'WITHSCORES')).flat().map(String), ['one', '1', 'two', '2.5']);
    equal(Number(await r.zincrby('z', 2, 'one')), 3);
    equal(await r.xadd('x', '1-1', 'a', '1'), '1-1');
    equal(await r.xrange('x', '-', '+'), [['1-1', ['a', '1']]]);
    equal(await r.type('x'), 'stream');
}

async function manyKeys(r) {
    const keys = Array.from({ length: 1000 }, (_, number) => `many:${number}`);
    equal(await r.mset(keys.flatMap((key) => [key, `value of ${key}`])), 'OK');
    equal(await r.mget(keys), keys.map((key) => `value of ${key}`));
    equal(await r.mget('many:7', 'nothing', 'many:7'), ['value of many:7', null, 'value of many:7']);
    equal(await r.exists(...keys, 'many:1'), 1001);
    equal(await r.del(...keys.slice(0, 400), 'nothing'), 400);
    equal(await r.unlink(...keys), 600);
    // Each of these is on its way before the first is answered.
    await Promise.all(
        keys.map(async (key, number) => {
            equal(await r.set(key, number), 'OK');
            equal(await r.incr(key), number + 1);
            equal(await r.mget(key, 'nothing'), [String(number + 1), null]);
            equal(await r.del(key), 1);
        }),
    );
}

async function pipelines(r) {
    const pipeline = r.pipeline();
    for (let number = 0; number < 500; number++) {
        pipeline.set(`p:${number}`, number).lpush(`p:${number}`, 1).mget(`p:${number}`, `p:${number - 1}`);
    }
    const answers = await pipeline.exec();
    for (let number = 0; number < 500; number++) {
        const [set, push, mget] = answers.slice(number * 3, number * 3 + 3);
        equal(set, [null, 'OK']);
        equal(push[0].message.startsWith('WRONGTYPE'), true);
        equal(mget, [null, [String(number), number ? String(number - 1) : null]]);
    }
}

async function automaticPipelines() {
    const r = connect({ enableAutoPipelining: true });
    const keys = Array.from({ length: 300 }, (_, number) => `auto:${number}`);
    equal(new Set(await Promise.all(keys.map((key) => r.set(key, key)))), new Set(['OK']));
    equal(await Promise.all(keys.map((key) => r.get(key))), keys);
    r.disconnect();
}

async function errors(r) {
    await r.set('text', 'abc');
    await fails(r.incr('text'), 'ERR value is not an integer or out of range');
    await fails(r.lpush('text', 1), 'WRONGTYPE Operation against a key holding the wrong kind of value');
    await fails(r.call('GET'), "ERR wrong number of arguments for 'get' command");
    await fails(r.call('NONSENSE', 'a'), "ERR unknown command 'NONSENSE', with args beginning with: 'a' ");
    await fails(r.select(1000), 'ERR DB index is out of range');
}

async function bigAndBinary(r) {
    const big = crypto.randomBytes(1024 * 1024);
    equal(await r.set('big', big), 'OK');
    equal((await r.getBuffer('big')).equals(big), true);
    for (const key of [Buffer.from([0]), Buffer.from('\r\n'), Buffer.from('*1\r\n$4\r\nPING\r\n'), crypto.randomBytes(300), Buffer.alloc(0)]) {
        equal(await r.set(key, key), 'OK');
        equal((await r.getBuffer(key)).equals(key), true);
        equal((await r.mgetBuffer(key, 'big'))[1].equals(big), true);
        equal(await r.del(key), 1);
    }
}

async function scripts(r) {
    equal(await r.eval('return {KEYS[1], ARGV[1], 7}', 1, 'k', 'v'), ['k', 'v', 7]);
    equal(await r.eval("redis.call('mset', KEYS[1], 1, KEYS[2], 2) return redis.call('mget', unpack(KEYS))", 2, '{e}1', '{e}2'), ['1', '2']);
}

// It sends EVALSHA, EVAL once it was told NOSCRIPT, and relies from then on on the script being known.
async function definedCommands(r) {
    r.defineCommand('addto', { numberOfKeys: 1, lua: "return redis.call('incrby', KEYS[1], ARGV[1])" });
    equal(await r.addto('defined', 7), 7);
    const keys = Array.from({ length: 100 }, (_, number) => `defined:${number}`);
    equal(await Promise.all(keys.map((key) => r.addto(key, 7))), Array(100).fill(7));
    const pipeline = r.pipeline();
    for (const key of keys) pipeline.addto(key, 1).get(key);
    equal(await pipeline.exec(), Array.from({ length: 200 }, (_, number) => [null, number % 2 ? '8' : 8]));
    equal(await r.multi().addto('{d}1', 2).addto('{d}2', 3).exec(), [[null, 2], [null, 3]]);
}

async function connections(r) {
    const other = connect({ db: 3, connectionName: 'tester' });
    equal(await other.set('db', 'three'), 'OK');
    equal(await r.get('db'), null);
    equal(await other.client('GETNAME'), 'tester');
    equal((await other.client('LIST')).includes(' name=tester '), true);
    equal(await other.select(0), 'OK');
    equal(await other.get('db'), null);
    equal((await r.info()).includes('redis_version:'), true);
    equal(await r.ping(), 'PONG');
    equal(await other.quit(), 'OK');
}

main(async () => {
    const r = connect();
    for (const work of [values, manyKeys, pipelines, automaticPipelines, errors, bigAndBinary, scripts, definedCommands, connections]) {
        await work(r);
    }
});
