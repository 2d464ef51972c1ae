// ioredis.js PORT PROTOCOL PASSWORD: typical work through ioredis, every answer checked.

const crypto = require('node:crypto');
const { library, equal, fails, main, until, untilBlocked, port, protocol, password } = require('./check');
const { Redis } = library('ioredis');

const connect = (options) => new Redis({ host: '127.0.0.1', port, protocol, password, maxRetriesPerRequest: 0, ...options });

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

async function transactions(r) {
    const [set, push, mget] = await r.multi().set('{t}a', 1).lpush('{t}a', 1).mget('{t}a', '{t}b').exec();
    equal([set, push[0].message.startsWith('WRONGTYPE'), mget], [[null, 'OK'], true, [null, ['1', null]]]);
    // Somebody else is faster, the first time.
    const other = connect();
    for (const expected of [null, [[null, 'OK']]]) {
        equal(await r.watch('{t}a'), 'OK');
        const before = Number(await r.get('{t}a'));
        if (!expected) equal(await other.set('{t}a', 7), 'OK');
        equal(await r.multi().set('{t}a', before + 1).exec(), expected);
    }
    equal(await r.get('{t}a'), '8');
    // Command by command instead of all at once.
    equal(await r.multi({ pipeline: false }), 'OK');
    equal(await r.incr('{t}a'), 'QUEUED');
    equal(await r.exec(), [[null, 9]]);
    await fails(r.multi().set('{t}a', 1).call('NONSENSE').exec(), 'EXECABORT Transaction discarded because of previous errors.');
    other.disconnect();
}

async function channels(r) {
    const listener = connect();
    const heard = [];
    listener.on('message', (channel, text) => heard.push(text));
    listener.on('pmessage', (pattern, channel, text) => heard.push(text));
    equal(await listener.subscribe('news', 'weather'), 2);
    equal(await listener.psubscribe('n?ws'), 3);
    // Each of these is on its way before the first is answered.
    const texts = Array.from({ length: 500 }, (_, number) => String(number));
    equal(await Promise.all(texts.map((text) => r.publish('news', text))), Array(500).fill(2));
    await until(async () => (await r.ping()) && heard.length === 1000);
    equal(heard.sort(), texts.flatMap((text) => [text, text]).sort());
    equal(await listener.unsubscribe('weather'), 2);
    equal(await listener.unsubscribe('news'), 1);
    equal(await listener.punsubscribe('n?ws'), 0);
    equal(await listener.get('nothing'), null);
    equal(await r.publish('news', 'nobody'), 0);
    listener.disconnect();
}

async function blocking(r) {
    const waiting = connect();
    equal(await waiting.blpop('queue', 0.05), null);
    for (const [wait, push, expected] of [
        [() => waiting.blpop('{q}1', '{q}2', 30), () => r.rpush('{q}2', 'pushed'), ['{q}2', 'pushed']],
        [() => waiting.blmove('{q}1', '{q}2', 'LEFT', 'RIGHT', 30), () => r.lpush('{q}1', 'moved'), 'moved'],
        [async () => (await waiting.bzpopmin('ranking', 30)).map(String), () => r.zadd('ranking', 1.5, 'first'), ['ranking', 'first', '1.5']],
        [() => waiting.xread('BLOCK', 30000, 'STREAMS', 'log', '$').then((found) => JSON.stringify(found).includes('5-1')), () => r.xadd('log', '5-1', 'f', 'v'), true],
    ]) {
        const found = wait();
        await untilBlocked(() => r.info('clients'), 1);
        await push();
        equal(await found, expected);
        await untilBlocked(() => r.info('clients'), 0);
    }
    waiting.disconnect();
}

async function scanning(r) {
    const keys = Array.from({ length: 2000 }, (_, number) => `scan:${number}`);
    await r.mset(keys.flatMap((key) => [key, '1']));
    const found = [];
    for await (const some of r.scanStream({ match: 'scan:*', count: 100 })) found.push(...some);
    equal(found.sort(), keys.sort());
    equal(await r.unlink(keys), 2000);
}

// The library connects again by itself, and sends again what was not answered.
async function killed(r) {
    const other = connect({ maxRetriesPerRequest: 5, db: 3 });
    other.on('error', () => {});
    equal(await other.set('kept', 1), 'OK');
    equal(await r.client('KILL', 'ID', await other.client('ID')), 1);
    equal(await other.getdel('kept'), '1');
    other.disconnect();
}

async function login() {
    const stranger = connect({ password: 'wrong', retryStrategy: null });
    const complaint = new Promise((resolve) => stranger.on('error', resolve));
    equal((await complaint).message.includes('WRONGPASS'), true);
    stranger.disconnect();
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
    const typical = [login, values, manyKeys, pipelines, automaticPipelines, transactions, channels, blocking];
    for (const work of [...typical, scanning, errors, bigAndBinary, scripts, definedCommands, connections, killed]) {
        await work(r);
    }
});
