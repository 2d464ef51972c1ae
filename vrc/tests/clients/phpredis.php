<?php
// phpredis PORT PROTOCOL PASSWORD: typical work through PHP's extension redis, every answer checked.

set_error_handler(function ($number, $text, $file, $line) { throw new ErrorException($text, 0, $number, $file, $line); });

[, $port, $protocol, $password] = $argv;
if ($protocol !== '2') throw new Exception('this version of the extension speaks RESP2');

function equal($found, $expected) {
    if ($found !== $expected) {
        throw new Exception(sprintf('found %.300s, expected %.300s', var_export($found, true), var_export($expected, true)));
    }
}

// The call returns false, or throws, and the error is this one.
function fails(Redis $r, callable $call, string $text) {
    try {
        $r->clearLastError();
        equal($call(), false);
        // This version of the extension counts the byte behind it in.
        equal(rtrim($r->getLastError(), "\0"), $text);
    } catch (RedisException $error) {
        equal($error->getMessage(), $text);
    }
}

function connect(bool $login = true): Redis {
    global $port, $password;
    $r = new Redis();
    $r->connect('127.0.0.1', (int)$port, 20);
    $r->setOption(Redis::OPT_READ_TIMEOUT, 60);
    if ($login) equal($r->auth($password), true);
    return $r;
}

// Runs the call in another process with a connection of its own; the function that is returned waits for its end.
function beside(callable $call): callable {
    $process = pcntl_fork();
    if ($process === 0) {
        try {
            $call(connect());
            posix_kill(posix_getpid(), SIGKILL);
        } catch (Throwable $error) {
            fwrite(STDERR, "$error\n");
            exit(1);
        }
    }
    return function () use ($process) {
        pcntl_waitpid($process, $status);
        // It ends by its own signal, so that it does not close what it shares with this process.
        equal(pcntl_wifsignaled($status), true);
    };
}

function until(callable $holds) {
    while (!$holds());
}

function login() {
    $r = connect(false);
    fails($r, fn() => $r->get('k'), 'NOAUTH Authentication required.');
    fails($r, fn() => $r->auth('wrong'), 'WRONGPASS invalid username-password pair or user is disabled.');
    global $password;
    equal($r->auth(['default', $password]), true);
    equal($r->get('k'), false);
}

function values(Redis $r) {
    equal($r->set('s', 'value', ['ex' => 100]), true);
    equal($r->set('s', 'other', ['nx']), false);
    equal($r->get('s'), 'value');
    equal($r->incrBy('n', 10), 10);
    equal($r->incrByFloat('n', 0.5), 10.5);
    equal($r->hMSet('h', ['a' => '1', 'b' => 'two']), true);
    equal($r->hGetAll('h'), ['a' => '1', 'b' => 'two']);
    equal($r->hMGet('h', ['b', 'nothing']), ['b' => 'two', 'nothing' => false]);
    equal($r->rPush('l', '1', '2', '3'), 3);
    equal($r->lRange('l', 0, -1), ['1', '2', '3']);
    equal($r->sAdd('{set}1', 'a', 'b'), 2);
    equal($r->sAdd('{set}2', 'b', 'c'), 2);
    equal($r->sInter('{set}1', '{set}2'), ['b']);
    equal($r->zAdd('z', 1, 'one', 2.5, 'two'), 2);
    equal($r->zRange('z', 0, -1, true), ['one' => 1.0, 'two' => 2.5]);
    equal($r->xAdd('x', '1-1', ['a' => '1']), '1-1');
    equal($r->xRange('x', '-', '+'), ['1-1' => ['a' => '1']]);
    equal($r->type('x'), Redis::REDIS_STREAM);
    equal($r->mSet(['a' => '1', 'b' => '2', 'c' => '3', 'd' => '4']), true);
    equal($r->mGet(['d', 'a', 'nothing', 'b', 'c']), ['4', '1', false, '2', '3']);
    equal($r->del('a', 'b', 'c', 'd', 'nothing'), 4);
    fails($r, fn() => $r->lPush('s', '1'), 'WRONGTYPE Operation against a key holding the wrong kind of value');
    fails($r, fn() => $r->rawCommand('NONSENSE', 'a'), "ERR unknown command 'NONSENSE', with args beginning with: 'a' ");
    fails($r, fn() => $r->select(1000), 'ERR DB index is out of range');
    equal($r->select(3), true);
    equal($r->exists('s'), 0);
    equal($r->select(0), true);
    // One server has all keys, a cluster asks for one slot.
    if ($r->rawCommand('INFO', 'vrc') === '') equal($r->sUnion('over', 'these'), []);
    else fails($r, fn() => $r->sUnion('over', 'these'), "CROSSSLOT Keys in request don't hash to the same slot");
}

function binary(Redis $r) {
    $big = random_bytes(10 << 20);
    $all = implode('', array_map('chr', range(0, 255)));
    foreach ([$all, "\r\n", "\0", "*1\r\n\$4\r\nPING\r\n", ''] as $key) {
        equal($r->set($key, $key), true);
        equal($r->get($key), $key);
        equal($r->del($key), 1);
    }
    equal($r->set($all, $big), true);
    equal($r->get($all) === $big, true);
    equal($r->strlen($all), 10 << 20);
    // What the extension turns into a string it makes a value of again.
    $r->setOption(Redis::OPT_SERIALIZER, Redis::SERIALIZER_PHP);
    $r->setOption(Redis::OPT_PREFIX, 'app:');
    equal($r->set('object', ['a' => [1, null]]), true);
    equal($r->get('object'), ['a' => [1, null]]);
    equal($r->mGet(['object', 'nothing']), [['a' => [1, null]], false]);
    $r->setOption(Redis::OPT_SERIALIZER, Redis::SERIALIZER_NONE);
    $r->setOption(Redis::OPT_PREFIX, '');
    equal($r->exists('app:object'), 1);
}

// All of a pipeline is written before any answer is read.
function pipelines(Redis $r) {
    $r->multi(Redis::PIPELINE);
    for ($number = 0; $number < 5000; $number++) {
        $r->set("p:$number", (string)$number)->lPush("p:$number", '1')->incr("p:$number");
    }
    $expected = [];
    for ($number = 0; $number < 5000; $number++) array_push($expected, true, false, $number + 1);
    equal($r->exec(), $expected);
    $value = str_repeat('v', 200000);
    $r->multi(Redis::PIPELINE);
    for ($number = 0; $number < 200; $number++) $r->set('big:' . $number % 7, $value)->get('big:' . $number % 7);
    equal($r->exec() === array_merge(...array_fill(0, 200, [true, $value])), true);
}

function transactions(Redis $r, Redis $other) {
    $answers = $r->multi()->set('{t}a', '1')->lPush('{t}a', '1')->mGet(['{t}a', '{t}b'])->exec();
    equal($answers, [true, false, ['1', false]]);
    // Somebody else is faster, the first time.
    foreach ([false, [true]] as $attempt => $expected) {
        equal($r->watch('{t}a'), true);
        $before = (int)$r->get('{t}a');
        if ($attempt === 0) equal($other->set('{t}a', '7'), true);
        equal($r->multi()->set('{t}a', (string)($before + 1))->exec(), $expected);
    }
    equal($r->get('{t}a'), '8');
    $r->multi();
    $r->incr('{t}a');
    equal($r->discard(), true);
    equal($r->get('{t}a'), '8');
}

function scripts(Redis $r) {
    $script = 'return {KEYS[1], ARGV[1], redis.call("incrby", KEYS[1], ARGV[1])}';
    fails($r, fn() => $r->evalSha(sha1('return "never loaded"'), ['k'], 1), 'NOSCRIPT No matching script. Please use EVAL.');
    equal($r->eval($script, ['counter', '5'], 1), ['counter', '5', 5]);
    for ($number = 0; $number < 50; $number++) {
        equal($r->evalSha(sha1($script), ["script:$number", '3'], 1), ["script:$number", '3', 3]);
    }
    equal($r->script('load', 'return 7'), sha1('return 7'));
    equal($r->script('exists', sha1('return 7'), sha1('return "never loaded"')), [1, 0]);
    fails($r, fn() => $r->eval('return redis.error_reply("MINE of my own")'), 'MINE of my own');
}

function blocking(Redis $r) {
    equal($r->rawCommand('BLPOP', 'queue', '0.05'), []);
    $until_blocked = fn(Redis $other, int $count) => until(fn() => $other->info('clients')['blocked_clients'] == $count);
    $wait = beside(function ($other) use ($until_blocked) {
        $until_blocked($other, 1);
        equal($other->rPush('{q}2', 'pushed'), 1);
        $until_blocked($other, 0);
        equal($other->set('unblocked', '1'), true);
        $until_blocked($other, 1);
        equal($other->xAdd('log', '5-1', ['f' => 'v']), '5-1');
    });
    equal($r->blPop(['{q}1', '{q}2'], 30), ['{q}2', 'pushed']);
    until(fn() => $r->get('unblocked') === '1');
    equal($r->xRead(['log' => '$'], 1, 30000), ['log' => ['5-1' => ['f' => 'v']]]);
    $wait();
}

// Hears what comes until there are so many messages; this version of the extension knows no other way to leave than to close.
function hear(string $how, string $what, int $count): array {
    $heard = [];
    try {
        connect()->$how([$what], function ($listener, ...$message) use (&$heard, $count) {
            $heard[] = $message;
            if (count($heard) === $count) $listener->close();
        });
    } catch (RedisException $error) {
        equal($error->getMessage(), 'Connection closed');
    }
    return $heard;
}

function channels(Redis $r) {
    $wait = beside(function ($other) {
        until(fn() => $other->pubsub('numsub', ['news']) === ['news' => 1]);
        equal($other->publish('news', 'hello'), 1);
        // Messages while a pipeline is on its way.
        $other->multi(Redis::PIPELINE);
        for ($number = 0; $number < 1000; $number++) $other->publish('news', (string)$number);
        equal($other->exec(), array_fill(0, 1000, 1));
        until(fn() => $other->pubsub('numpat') === 1 && $other->pubsub('numsub', ['news']) === ['news' => 0]);
        equal($other->publish('news', 'bye'), 1);
    });
    $expected = array_map(fn($text) => ['news', (string)$text], array_merge(['hello'], range(0, 999)));
    equal(hear('subscribe', 'news', 1001), $expected);
    // Right beside the end of a subscription a proxy may count it still.
    until(fn() => $r->publish('news', 'nobody') === 0);
    equal(hear('psubscribe', 'n?ws', 1), [['n?ws', 'news', 'bye']]);
    $wait();
    until(fn() => $r->publish('news', 'nobody') === 0);
}

function scan(Redis $r) {
    $r->multi(Redis::PIPELINE);
    for ($number = 0; $number < 2000; $number++) $r->set("scan:$number", '1');
    $r->exec();
    $r->setOption(Redis::OPT_SCAN, Redis::SCAN_RETRY);
    $seen = [];
    for ($cursor = null; ($keys = $r->scan($cursor, 'scan:*', 100)) !== false;) array_push($seen, ...$keys);
    sort($seen);
    $expected = array_map(fn($number) => "scan:$number", range(0, 1999));
    sort($expected);
    equal($seen, $expected);
}

// A persistent connection is cleaned by the extension, and connects again where it was cut.
function killed(Redis $other) {
    global $port, $password;
    $r = new Redis();
    equal($r->pconnect('127.0.0.1', (int)$port, 20, 'pool'), true);
    equal($r->auth($password), true);
    equal($r->set('kept', '1'), true);
    equal($other->rawCommand('CLIENT', 'KILL', 'ID', $r->client('id')), 1);
    equal($r->get('kept'), '1');
    $r->close();
}

$r = connect();
$other = connect();
login();
values($r);
binary($r);
pipelines($r);
transactions($r, $other);
scripts($r);
blocking($r);
channels($r);
scan($r);
killed($other);
echo "all well\n";
