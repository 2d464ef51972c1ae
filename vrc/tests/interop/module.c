// A redis module of a few commands, written without redismodule.h, which few systems have.

#include <stddef.h>

typedef struct RedisModuleCtx RedisModuleCtx;
typedef struct RedisModuleString RedisModuleString;
typedef struct RedisModuleCallReply RedisModuleCallReply;
typedef int (*Command)(RedisModuleCtx *, RedisModuleString **, int);

static int (*get_api)(const char *, void *);
static RedisModuleCallReply *(*call)(RedisModuleCtx *, const char *, const char *, ...);
static int (*reply_with)(RedisModuleCtx *, RedisModuleCallReply *);
static int (*reply_with_text)(RedisModuleCtx *, const char *);
static int (*wrong_arity)(RedisModuleCtx *);

static int set(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    return argc == 3 ? reply_with(ctx, call(ctx, "SET", "ss", argv[1], argv[2])) : wrong_arity(ctx);
}

static int get(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    return argc == 2 ? reply_with(ctx, call(ctx, "GET", "s", argv[1])) : wrong_arity(ctx);
}

static int del(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    return argc > 1 ? reply_with(ctx, call(ctx, "DEL", "v", argv + 1, (size_t)(argc - 1))) : wrong_arity(ctx);
}

static int name(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    (void)argv;
    (void)argc;
    return reply_with_text(ctx, "vrctest");
}

int RedisModule_OnLoad(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    int (*create)(RedisModuleCtx *, const char *, Command, const char *, int, int, int);
    void (*set_attributes)(RedisModuleCtx *, const char *, int, int);
    (void)argv;
    (void)argc;
    get_api = (int (*)(const char *, void *))((void **)ctx)[0];
    get_api("RedisModule_SetModuleAttribs", &set_attributes);
    get_api("RedisModule_CreateCommand", &create);
    get_api("RedisModule_Call", &call);
    get_api("RedisModule_ReplyWithCallReply", &reply_with);
    get_api("RedisModule_ReplyWithSimpleString", &reply_with_text);
    get_api("RedisModule_WrongArity", &wrong_arity);
    set_attributes(ctx, "vrctest", 1, 1);
    return create(ctx, "VrcTest.Set", set, "write deny-oom", 1, 1, 1) || create(ctx, "vrctest.get", get, "readonly", 1, 1, 1) ||
           create(ctx, "vrctest.del", del, "write", 1, -1, 1) || create(ctx, "vrctest.name", name, "readonly", 0, 0, 0) ||
           create(ctx, "vrctest.anywhere", name, "write", 0, 0, 0);
}
