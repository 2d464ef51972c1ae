/* hiredis PORT PROTOCOL PASSWORD: typical work through hiredis, blocking and event-driven, every answer checked. */

#define _GNU_SOURCE
#include <errno.h>
#include <hiredis/async.h>
#include <hiredis/hiredis.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int port;
static const char *password;

#define FAIL(...) (fprintf(stderr, "line %d: ", __LINE__), fprintf(stderr, __VA_ARGS__), fputc('\n', stderr), exit(1))

/* ---- Replies as text, so that each check is one line ---- */

static void print(FILE *to, const redisReply *reply) {
    switch (reply->type) {
    case REDIS_REPLY_STRING: fwrite(reply->str, 1, reply->len, to); break;
    case REDIS_REPLY_STATUS: fprintf(to, "+%s", reply->str); break;
    case REDIS_REPLY_ERROR: fprintf(to, "-%s", reply->str); break;
    case REDIS_REPLY_INTEGER: fprintf(to, "%lld", reply->integer); break;
    case REDIS_REPLY_NIL: fprintf(to, "nil"); break;
    case REDIS_REPLY_ARRAY:
        fputc('[', to);
        for (size_t at = 0; at < reply->elements; at++) {
            if (at) fputc(' ', to);
            print(to, reply->element[at]);
        }
        fputc(']', to);
        break;
    default: FAIL("a reply of type %d", reply->type);
    }
}

static char *text_of(const redisReply *reply) {
    char *text;
    size_t len;
    FILE *to = open_memstream(&text, &len);
    print(to, reply);
    fclose(to);
    return text;
}

static void equal(int line, char *found, const char *expected, const char *what) {
    if (strcmp(found, expected)) {
        fprintf(stderr, "line %d: %s: found %.300s, expected %.300s\n", line, what, found, expected);
        exit(1);
    }
    free(found);
}

/* The next reply. */
static char *next(redisContext *c) {
    void *reply;
    if (redisGetReply(c, &reply) != REDIS_OK) FAIL("the connection fails: %s", c->errstr);
    char *text = text_of(reply);
    freeReplyObject(reply);
    return text;
}

#define NEXT(c, expected) equal(__LINE__, next(c), expected, "the next reply")
#define ASK(c, ...) (redisAppendCommand(c, __VA_ARGS__), next(c))
/* CHECK(CONNECTION, EXPECTED, COMMAND …) */
#define CHECK(c, expected, ...) equal(__LINE__, ASK(c, __VA_ARGS__), expected, #__VA_ARGS__)

static redisContext *connect_only(void) {
    redisContext *c = redisConnectWithTimeout("127.0.0.1", port, (struct timeval){20, 0});
    if (!c || c->err) FAIL("no connection: %s", c ? c->errstr : "no memory");
    redisSetTimeout(c, (struct timeval){60, 0});
    return c;
}

static redisContext *connection(void) {
    redisContext *c = connect_only();
    CHECK(c, "+OK", "AUTH %s", password);
    return c;
}

/* Sends what was appended, and waits for no reply. */
static void flush(redisContext *c) {
    for (int done = 0; !done;)
        if (redisBufferWrite(c, &done) != REDIS_OK) FAIL("%s", c->errstr);
}

/* Waits until the server says that so many clients wait for data. */
static void until_blocked(redisContext *c, int count) {
    char expected[30];
    sprintf(expected, "blocked_clients:%d", count);
    for (int found = 0; !found;) {
        char *info = ASK(c, "INFO clients");
        found = strstr(info, expected) != NULL;
        free(info);
    }
}

/* ---- The work ---- */

static void login(void) {
    redisContext *c = connect_only();
    CHECK(c, "-NOAUTH Authentication required.", "GET k");
    CHECK(c, "-WRONGPASS invalid username-password pair or user is disabled.", "AUTH wrong");
    CHECK(c, "-NOAUTH Authentication required.", "GET k");
    CHECK(c, "+OK", "AUTH default %s", password);
    CHECK(c, "nil", "GET k");
    redisFree(c);
}

static void values(redisContext *c) {
    CHECK(c, "+OK", "SET s value EX 100");
    CHECK(c, "nil", "SET s other NX");
    CHECK(c, "value", "GET s");
    CHECK(c, "10", "INCRBY n 10");
    CHECK(c, "10.5", "INCRBYFLOAT n 0.5");
    CHECK(c, "2", "HSET h a 1 b two");
    CHECK(c, "[1 nil two]", "HMGET h a nothing b");
    CHECK(c, "3", "RPUSH l 1 2 3");
    CHECK(c, "[1 2 3]", "LRANGE l 0 -1");
    CHECK(c, "[1 2]", "LPOP l 2");
    CHECK(c, "2", "SADD {s}1 a b");
    CHECK(c, "2", "SADD {s}2 b c");
    CHECK(c, "[b]", "SINTER {s}1 {s}2");
    CHECK(c, "2", "ZADD z 1 one 2.5 two");
    CHECK(c, "[one 1 two 2.5]", "ZRANGE z 0 -1 WITHSCORES");
    CHECK(c, "1-1", "XADD x 1-1 a 1");
    CHECK(c, "[[1-1 [a 1]]]", "XRANGE x - +");
    CHECK(c, "[]", "XRANGE x 2-0 +");
    CHECK(c, "+stream", "TYPE x");
    CHECK(c, "-WRONGTYPE Operation against a key holding the wrong kind of value", "LPUSH s 1");
    CHECK(c, "-ERR unknown command 'NONSENSE', with args beginning with: 'a' ", "NONSENSE a");
    CHECK(c, "+OK", "MSET a 1 b 2 c 3 d 4");
    CHECK(c, "[4 1 nil 2 3]", "MGET d a nothing b c");
    CHECK(c, "-ERR DB index is out of range", "SELECT 1000");
    CHECK(c, "+OK", "SELECT 3");
    CHECK(c, "nil", "GET a");
    CHECK(c, "+OK", "SELECT 0");
    CHECK(c, "4", "DEL a b c d");
    /* One server has all keys, a cluster asks for one slot. */
    char *info = ASK(c, "INFO vrc");
    int is_cluster = strlen(info) > 0;
    free(info);
    CHECK(c, is_cluster ? "-CROSSSLOT Keys in request don't hash to the same slot" : "[]", "SUNION over these");
}

static void binary(redisContext *c) {
    char key[256], *big = malloc(10 << 20), number[40];
    for (int at = 0; at < 256; at++) key[at] = at;
    for (int at = 0; at < 10 << 20; at++) big[at] = at * 2654435761u >> 24;
    CHECK(c, "+OK", "SET %b %b", key, sizeof key, big, (size_t)10 << 20);
    redisReply *reply = redisCommand(c, "GET %b", key, sizeof key);
    if (reply->len != 10 << 20 || memcmp(reply->str, big, reply->len)) FAIL("%zu bytes came back, or others", reply->len);
    freeReplyObject(reply);
    sprintf(number, "%d", 10 << 20);
    CHECK(c, number, "STRLEN %b", key, sizeof key);
    CHECK(c, "1", "DEL %b", key, sizeof key);
    CHECK(c, "+OK", "SET %b %s", "\r\n", (size_t)2, "");
    CHECK(c, "", "GET %b", "\r\n", (size_t)2);
    free(big);
}

/* The library writes all of a pipeline before it reads any answer. */
static void pipelines(redisContext *c) {
    char number[20], *value = malloc(200000);
    for (int at = 0; at < 5000; at++) {
        redisAppendCommand(c, "SET p:%d %d", at, at);
        redisAppendCommand(c, "LPUSH p:%d 1", at);
        redisAppendCommand(c, "INCR p:%d", at);
    }
    for (int at = 0; at < 5000; at++) {
        sprintf(number, "%d", at + 1);
        NEXT(c, "+OK");
        NEXT(c, "-WRONGTYPE Operation against a key holding the wrong kind of value");
        NEXT(c, number);
    }
    memset(value, 'v', 199999);
    value[199999] = 0;
    for (int at = 0; at < 200; at++) {
        redisAppendCommand(c, "SET big:%d %s", at % 7, value);
        redisAppendCommand(c, "GET big:%d", at % 7);
    }
    for (int at = 0; at < 200; at++) {
        NEXT(c, "+OK");
        NEXT(c, value);
    }
    free(value);
}

static void transactions(redisContext *c, redisContext *other) {
    redisAppendCommand(c, "MULTI");
    redisAppendCommand(c, "SET {t}a 1");
    redisAppendCommand(c, "LPUSH {t}a 1");
    redisAppendCommand(c, "MGET {t}a {t}b");
    redisAppendCommand(c, "EXEC");
    NEXT(c, "+OK");
    for (int at = 0; at < 3; at++) NEXT(c, "+QUEUED");
    NEXT(c, "[+OK -WRONGTYPE Operation against a key holding the wrong kind of value [1 nil]]");
    /* Somebody else is faster, the first time. */
    for (int attempt = 0; attempt < 2; attempt++) {
        CHECK(c, "+OK", "WATCH {t}a");
        CHECK(c, attempt ? "7" : "1", "GET {t}a");
        if (attempt == 0) CHECK(other, "+OK", "SET {t}a 7");
        CHECK(c, "+OK", "MULTI");
        CHECK(c, "+QUEUED", "INCR {t}a");
        CHECK(c, attempt ? "[8]" : "nil", "EXEC");
    }
    CHECK(c, "+OK", "MULTI");
    CHECK(c, "-ERR unknown command 'NONSENSE', with args beginning with: ", "NONSENSE");
    CHECK(c, "-EXECABORT Transaction discarded because of previous errors.", "EXEC");
    CHECK(c, "-ERR EXEC without MULTI", "EXEC");
    CHECK(c, "8", "GET {t}a");
}

static void scripts(redisContext *c) {
    const char *text = "return {KEYS[1], ARGV[1], redis.call('incrby', KEYS[1], ARGV[1])}";
    CHECK(c, "-NOSCRIPT No matching script. Please use EVAL.", "EVALSHA %s 1 k 1", "ffffffffffffffffffffffffffffffffffffffff");
    CHECK(c, "[counter 5 5]", "EVAL %s 1 counter 5", text);
    char *sha = ASK(c, "SCRIPT LOAD %s", text);
    CHECK(c, "[1]", "SCRIPT EXISTS %s", sha);
    char key[20], expected[40];
    for (int at = 0; at < 50; at++) {
        sprintf(key, "script:%d", at);
        sprintf(expected, "[%s 3 3]", key);
        CHECK(c, expected, "EVALSHA %s 1 %s 3", sha, key);
    }
    CHECK(c, "-MINE of my own", "EVAL %s 0", "return redis.error_reply('MINE of my own')");
    free(sha);
}

static void blocking(redisContext *c, redisContext *other) {
    CHECK(c, "nil", "BLPOP queue 0.05");
    CHECK(c, "1", "RPUSH queue ready");
    CHECK(c, "[queue ready]", "BLPOP queue 0");
    redisAppendCommand(c, "BLPOP {q}1 {q}2 30");
    redisAppendCommand(c, "GET behind");
    flush(c);
    until_blocked(other, 1);
    CHECK(other, "+OK", "SET behind it");
    CHECK(other, "1", "RPUSH {q}2 pushed");
    NEXT(c, "[{q}2 pushed]");
    NEXT(c, "it");
    until_blocked(other, 0);
    redisAppendCommand(c, "BLMOVE {q}1 {q}2 LEFT RIGHT 30");
    flush(c);
    until_blocked(other, 1);
    CHECK(other, "1", "LPUSH {q}1 moved");
    NEXT(c, "moved");
    until_blocked(other, 0);
    redisAppendCommand(c, "XREAD BLOCK 30000 STREAMS log $");
    flush(c);
    until_blocked(other, 1);
    CHECK(other, "5-1", "XADD log 5-1 f v");
    NEXT(c, "[[log [[5-1 [f v]]]]]");
}

static void channels(redisContext *c, redisContext *other) {
    CHECK(c, "[subscribe news 1]", "SUBSCRIBE news");
    redisAppendCommand(c, "PSUBSCRIBE n?w*");
    redisAppendCommand(c, "PING");
    NEXT(c, "[psubscribe n?w* 2]");
    NEXT(c, "[pong ]");
    CHECK(c, "-ERR Can't execute 'get': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context",
          "GET k");
    CHECK(other, "2", "PUBLISH news hello");
    NEXT(c, "[message news hello]");
    NEXT(c, "[pmessage n?w* news hello]");
    CHECK(other, "[news 1]", "PUBSUB NUMSUB news");
    /* Messages while a pipeline is on its way; of channels that are together, so in order. */
    for (int at = 0; at < 1000; at++) redisAppendCommand(other, "PUBLISH new:{s}:%d %d", at, at);
    for (int at = 0; at < 1000; at++) NEXT(other, "1");
    for (int at = 0; at < 1000; at++) {
        char expected[60];
        sprintf(expected, "[pmessage n?w* new:{s}:%d %d]", at, at);
        NEXT(c, expected);
    }
    CHECK(c, "[unsubscribe news 1]", "UNSUBSCRIBE");
    CHECK(c, "[punsubscribe n?w* 0]", "PUNSUBSCRIBE");
    CHECK(c, "[unsubscribe nil 0]", "UNSUBSCRIBE");
    CHECK(other, "0", "PUBLISH news nobody");
    CHECK(c, "nil", "GET k");
}

/* All keys, each once, however many calls that takes. */
static void scan(redisContext *c) {
    enum { KEYS = 2000 };
    static int seen[KEYS];
    for (int at = 0; at < KEYS; at++) redisAppendCommand(c, "SET scan:%d 1", at);
    for (int at = 0; at < KEYS; at++) NEXT(c, "+OK");
    char cursor[30] = "0";
    do {
        redisReply *reply = redisCommand(c, "SCAN %s MATCH scan:* COUNT 100", cursor);
        for (size_t at = 0; at < reply->element[1]->elements; at++) seen[atoi(reply->element[1]->element[at]->str + 5)]++;
        strcpy(cursor, reply->element[0]->str);
        freeReplyObject(reply);
    } while (strcmp(cursor, "0"));
    for (int at = 0; at < KEYS; at++)
        if (seen[at] != 1) FAIL("scan:%d came %d times", at, seen[at]);
}

static void killed(redisContext *other) {
    redisContext *c = connection();
    CHECK(c, "+OK", "SET kept 1");
    char *id = ASK(c, "CLIENT ID");
    CHECK(other, "1", "CLIENT KILL ID %s", id);
    redisReply *reply = redisCommand(c, "GET kept");
    /* On a busy machine the answer to what comes for a closed socket, a reset, may overtake the end of the stream. */
    int ended = c->err == REDIS_ERR_EOF || (c->err == REDIS_ERR_IO && errno == ECONNRESET);
    if (reply || !ended) FAIL("a killed client is told: %s", reply ? text_of(reply) : c->errstr);
    if (redisReconnect(c) != REDIS_OK) FAIL("cannot come back: %s", c->errstr);
    CHECK(c, "+OK", "AUTH %s", password);
    CHECK(c, "1", "GET kept");
    free(id);
    redisFree(c);
}

/* ---- Event-driven, with an event loop of one connection ---- */

struct loop {
    redisAsyncContext *c;
    int reads, writes, ended, answers, messages;
};

static void add_read(void *data) { ((struct loop *)data)->reads = 1; }
static void del_read(void *data) { ((struct loop *)data)->reads = 0; }
static void add_write(void *data) { ((struct loop *)data)->writes = 1; }
static void del_write(void *data) { ((struct loop *)data)->writes = 0; }

static void disconnected(const redisAsyncContext *c, int status) {
    if (status != REDIS_OK) FAIL("%s", c->errstr);
    ((struct loop *)c->data)->ended = 1;
}

static struct loop *loop_start(void) {
    struct loop *loop = calloc(1, sizeof *loop);
    redisAsyncContext *c = loop->c = redisAsyncConnect("127.0.0.1", port);
    if (c->err) FAIL("%s", c->errstr);
    c->data = c->ev.data = loop;
    c->ev.addRead = add_read, c->ev.delRead = del_read, c->ev.addWrite = add_write, c->ev.delWrite = del_write;
    redisAsyncSetDisconnectCallback(c, disconnected);
    redisAsyncCommand(c, NULL, NULL, "AUTH %s", password);
    return loop;
}

static void turn(struct loop *loop) {
    struct pollfd fd = {loop->c->c.fd, (loop->reads ? POLLIN : 0) | (loop->writes ? POLLOUT : 0), 0};
    if (poll(&fd, 1, 60000) <= 0) FAIL("nothing comes");
    if (fd.revents & (POLLIN | POLLHUP | POLLERR)) redisAsyncHandleRead(loop->c);
    if (!loop->ended && fd.revents & POLLOUT) redisAsyncHandleWrite(loop->c);
}

static void on_answer(redisAsyncContext *c, void *reply, void *expected) {
    if (!reply) FAIL("no answer to what is %s", (char *)expected);
    equal(__LINE__, text_of(reply), expected, "an answer");
    free(expected);
    ((struct loop *)c->data)->answers++;
}

static void on_message(redisAsyncContext *c, void *reply, void *number) {
    (void)number;
    struct loop *loop = c->data;
    /* At the end: the library lets go of what was subscribed. */
    if (!reply) return;
    char *text = text_of(reply), expected[60];
    if (!strncmp(text, "[subscribe", 10) || !strncmp(text, "[unsubscribe", 12)) {
        loop->answers++;
    } else {
        sprintf(expected, "[message events %d]", loop->messages++);
        equal(__LINE__, strdup(text), expected, "a message");
    }
    free(text);
}

static void event_driven(void) {
    enum { COMMANDS = 5000 };
    struct loop *listener = loop_start(), *loop = loop_start();
    redisAsyncCommand(listener->c, on_message, NULL, "SUBSCRIBE events");
    while (!listener->answers) turn(listener);
    for (int at = 0; at < COMMANDS; at++) {
        char *expected;
        if (asprintf(&expected, "value %d", at) < 0) FAIL("no memory");
        redisAsyncCommand(loop->c, NULL, NULL, "SET async:%d %s", at, expected);
        redisAsyncCommand(loop->c, on_answer, expected, "GET async:%d", at);
        if (at % 10 == 0) redisAsyncCommand(loop->c, on_answer, strdup("1"), "PUBLISH events %d", at / 10);
    }
    while (loop->answers < COMMANDS + COMMANDS / 10) turn(loop);
    while (listener->messages < COMMANDS / 10) turn(listener);
    redisAsyncCommand(listener->c, on_message, NULL, "UNSUBSCRIBE events");
    while (listener->answers < 2) turn(listener);
    redisAsyncDisconnect(loop->c);
    while (!loop->ended) turn(loop);
    free(loop);
    redisAsyncFree(listener->c);
    free(listener);
}

int main(int argc, char **argv) {
    if (argc != 4 || strcmp(argv[2], "2")) FAIL("hiredis PORT 2 PASSWORD: this version of the library speaks RESP2");
    port = atoi(argv[1]);
    password = argv[3];
    login();
    redisContext *c = connection(), *other = connection();
    values(c);
    binary(c);
    pipelines(c);
    transactions(c, other);
    scripts(c);
    blocking(c, other);
    channels(c, other);
    scan(c);
    killed(other);
    event_driven();
    redisFree(c);
    redisFree(other);
    puts("all well");
    return 0;
}
