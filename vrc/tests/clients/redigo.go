// redigo PORT PROTOCOL PASSWORD: typical work through redigo and its pool, every answer checked.
package main

import (
	"bytes"
	"fmt"
	"math/rand"
	"os"
	"runtime"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/gomodule/redigo/redis"
)

var address, password string

// The place in this file where a check stands is what is told of it.
func fail(format string, args ...interface{}) {
	place := ""
	for skip := 1; ; skip++ {
		_, file, line, ok := runtime.Caller(skip)
		if !ok || !strings.HasSuffix(file, "redigo.go") {
			break
		}
		place += fmt.Sprintf(" %d", line)
	}
	fmt.Fprintf(os.Stderr, "lines%s: %s\n", place, fmt.Sprintf(format, args...))
	os.Exit(1)
}

// A reply as text, so that each check is one line.
func text(reply interface{}, err error) string {
	if err != nil {
		return "-" + err.Error()
	}
	switch reply := reply.(type) {
	case nil:
		return "nil"
	case []byte:
		return string(reply)
	case string:
		return "+" + reply
	case redis.Error:
		return "-" + string(reply)
	case []interface{}:
		items := make([]string, len(reply))
		for at, item := range reply {
			items[at] = text(item, nil)
		}
		return "[" + strings.Join(items, " ") + "]"
	default:
		return fmt.Sprint(reply)
	}
}

func equal(found, expected interface{}) {
	if found, expected := fmt.Sprint(found), fmt.Sprint(expected); found != expected {
		fail("found %.300q, expected %.300q", found, expected)
	}
}

// command("GET k") is a command without blanks in its arguments.
func command(words string) (string, []interface{}) {
	fields := strings.Fields(words)
	args := redis.Args{}.AddFlat(fields[1:])
	return fields[0], args
}

func ask(c redis.Conn, words string) string {
	name, args := command(words)
	return text(c.Do(name, args...))
}

func check(c redis.Conn, words, expected string) {
	if found := ask(c, words); found != expected {
		fail("%s: found %.300q, expected %.300q", words, found, expected)
	}
}

func send(c redis.Conn, words string) {
	name, args := command(words)
	if err := c.Send(name, args...); err != nil {
		fail("%s: %v", words, err)
	}
}

func receive(c redis.Conn, expected string) {
	if found := text(c.Receive()); found != expected {
		fail("found %.300q, expected %.300q", found, expected)
	}
}

func must(err error) {
	if err != nil {
		fail("%v", err)
	}
}

func dial(options ...redis.DialOption) (redis.Conn, error) {
	limits := []redis.DialOption{redis.DialConnectTimeout(20 * time.Second), redis.DialReadTimeout(60 * time.Second)}
	return redis.Dial("tcp", address, append(limits, options...)...)
}

func connect(options ...redis.DialOption) redis.Conn {
	c, err := dial(append(options, redis.DialPassword(password))...)
	must(err)
	return c
}

func login() {
	_, err := dial(redis.DialPassword("wrong"))
	equal(err, "WRONGPASS invalid username-password pair or user is disabled.")
	c, err := dial()
	must(err)
	check(c, "GET k", "-NOAUTH Authentication required.")
	must(c.Close())
	c = connect(redis.DialUsername("default"), redis.DialClientName("tester"), redis.DialDatabase(3))
	check(c, "CLIENT GETNAME", "tester")
	check(c, "SET in3 1", "+OK")
	check(c, "SELECT 0", "+OK")
	check(c, "GET in3", "nil")
	check(c, "SELECT 1000", "-ERR DB index is out of range")
	must(c.Close())
}

func values(c redis.Conn) {
	check(c, "SET s value EX 100", "+OK")
	check(c, "SET s other NX", "nil")
	check(c, "GET s", "value")
	check(c, "INCRBY n 10", "10")
	check(c, "INCRBYFLOAT n 0.5", "10.5")
	check(c, "HSET h a 1 b two", "2")
	hash, err := redis.StringMap(c.Do("HGETALL", "h"))
	must(err)
	equal(hash, map[string]string{"a": "1", "b": "two"})
	check(c, "RPUSH l 1 2 3", "3")
	list, err := redis.Ints(c.Do("LRANGE", "l", 0, -1))
	must(err)
	equal(list, []int{1, 2, 3})
	check(c, "SADD {s}1 a b", "2")
	check(c, "SADD {s}2 b c", "2")
	set, err := redis.Strings(c.Do("SUNION", "{s}1", "{s}2"))
	must(err)
	sort.Strings(set)
	equal(set, []string{"a", "b", "c"})
	check(c, "ZADD z 1 one 2.5 two", "2")
	check(c, "ZRANGE z 0 -1 WITHSCORES", "[one 1 two 2.5]")
	check(c, "XADD x 1-1 a 1", "1-1")
	check(c, "XRANGE x - +", "[[1-1 [a 1]]]")
	check(c, "TYPE x", "+stream")
	var fields struct{ A, B string }
	_, err = c.Do("HSET", redis.Args{}.Add("fields").AddFlat(map[string]string{"A": "1", "B": "2"})...)
	must(err)
	scanned, err := redis.Values(c.Do("HGETALL", "fields"))
	must(err)
	must(redis.ScanStruct(scanned, &fields))
	equal(fields, struct{ A, B string }{"1", "2"})
	check(c, "MSET a 1 b 2 c 3 d 4", "+OK")
	check(c, "MGET d a nothing b c", "[4 1 nil 2 3]")
	check(c, "LPUSH s 1", "-WRONGTYPE Operation against a key holding the wrong kind of value")
	check(c, "NONSENSE a", "-ERR unknown command 'NONSENSE', with args beginning with: 'a' ")
	// One server has all keys, a cluster asks for one slot.
	expected := "[]"
	if ask(c, "INFO vrc") != "" {
		expected = "-CROSSSLOT Keys in request don't hash to the same slot"
	}
	check(c, "SUNION over these", expected)
}

func binary(c redis.Conn) {
	key, big := make([]byte, 256), make([]byte, 10<<20)
	for at := range key {
		key[at] = byte(at)
	}
	rand.Read(big)
	equal(text(c.Do("SET", key, big)), "+OK")
	found, err := redis.Bytes(c.Do("GET", key))
	must(err)
	equal(bytes.Equal(found, big), true)
	equal(text(c.Do("SET", "\r\n", "")), "+OK")
	equal(text(c.Do("MGET", "\r\n", "nothing")), "[ nil]")
	equal(text(c.Do("DEL", key, "\r\n")), "2")
}

// What is sent leaves as the library's buffer fills up, long before the first answer is read.
func pipelines(c redis.Conn) {
	for number := 0; number < 5000; number++ {
		send(c, fmt.Sprintf("SET p:%d %d", number, number))
		send(c, fmt.Sprintf("LPUSH p:%d 1", number))
		send(c, fmt.Sprintf("INCR p:%d", number))
	}
	must(c.Flush())
	for number := 0; number < 5000; number++ {
		receive(c, "+OK")
		receive(c, "-WRONGTYPE Operation against a key holding the wrong kind of value")
		receive(c, fmt.Sprint(number+1))
	}
	value := strings.Repeat("v", 200_000)
	for number := 0; number < 200; number++ {
		send(c, fmt.Sprintf("SET big:%d %s", number%7, value))
		send(c, fmt.Sprintf("GET big:%d", number%7))
	}
	// Do sends what is left, and takes all the answers: the last is its own.
	check(c, "PING", "+PONG")
	for number := 0; number < 100; number++ {
		send(c, fmt.Sprintf("GET big:%d", number%7))
	}
	answers, err := redis.Strings(c.Do(""))
	must(err)
	equal(len(answers), 100)
	for _, answer := range answers {
		equal(answer, value)
	}
}

func transactions(c, other redis.Conn) {
	send(c, "MULTI")
	send(c, "SET {t}a 1")
	send(c, "LPUSH {t}a 1")
	send(c, "MGET {t}a {t}b")
	check(c, "EXEC", "[+OK -WRONGTYPE Operation against a key holding the wrong kind of value [1 nil]]")
	// Somebody else is faster, the first time.
	for attempt := 0; attempt < 2; attempt++ {
		check(c, "WATCH {t}a", "+OK")
		before, err := redis.Int(c.Do("GET", "{t}a"))
		must(err)
		if attempt == 0 {
			check(other, "SET {t}a 7", "+OK")
		}
		send(c, "MULTI")
		send(c, fmt.Sprintf("SET {t}a %d", before+1))
		check(c, "EXEC", []string{"nil", "[+OK]"}[attempt])
	}
	check(c, "GET {t}a", "8")
	check(c, "MULTI", "+OK")
	check(c, "NONSENSE", "-ERR unknown command 'NONSENSE', with args beginning with: ")
	check(c, "EXEC", "-EXECABORT Transaction discarded because of previous errors.")
}

// It sends EVALSHA, and EVAL once it was told NOSCRIPT.
func scripts(c redis.Conn) {
	script := redis.NewScript(1, "return redis.call('incrby', KEYS[1], ARGV[1])")
	for number := 0; number < 50; number++ {
		equal(text(script.Do(c, fmt.Sprintf("script:%d", number), 7)), "7")
	}
	loaded := redis.NewScript(2, "return {KEYS[2], ARGV[1]}")
	must(loaded.Load(c))
	for number := 0; number < 50; number++ {
		must(loaded.SendHash(c, fmt.Sprintf("{%d}a", number), fmt.Sprintf("{%d}b", number), "x"))
	}
	must(c.Flush())
	for number := 0; number < 50; number++ {
		receive(c, fmt.Sprintf("[{%d}b x]", number))
	}
	failing := redis.NewScript(0, "return redis.error_reply('MINE of my own')")
	equal(text(failing.Do(c)), "-MINE of my own")
}

// Waits until the server says that so many clients wait for data.
func untilBlocked(c redis.Conn, count int) {
	for !strings.Contains(ask(c, "INFO clients"), fmt.Sprintf("blocked_clients:%d", count)) {
	}
}

func blocking(c, other redis.Conn) {
	check(c, "BLPOP queue 0.05", "nil")
	for _, each := range []struct{ waits, push, pushed, expected string }{
		{"BLPOP {q}1 {q}2 30", "RPUSH {q}2 pushed", "1", "[{q}2 pushed]"},
		{"BLMOVE {q}1 {q}2 LEFT RIGHT 30", "LPUSH {q}1 moved", "1", "moved"},
		{"BZPOPMIN ranking 30", "ZADD ranking 1.5 first", "1", "[ranking first 1.5]"},
		{"XREAD BLOCK 30000 STREAMS log $", "XADD log 5-1 f v", "5-1", "[[log [[5-1 [f v]]]]]"},
	} {
		got := make(chan string)
		go func() { got <- ask(c, each.waits) }()
		untilBlocked(other, 1)
		check(other, each.push, each.pushed)
		equal(<-got, each.expected)
		untilBlocked(other, 0)
	}
	// What the library gives up waiting for, it closes the connection over; nothing is popped for nobody.
	impatient := connect()
	_, err := redis.DoWithTimeout(impatient, 50*time.Millisecond, "BLPOP", "left", 0)
	if err == nil || impatient.Err() == nil {
		fail("it waits no longer than it should: %v", err)
	}
	impatient.Close()
	untilBlocked(other, 0)
	check(other, "RPUSH left 1", "1")
	check(other, "LLEN left", "1")
}

func subscribed(c redis.PubSubConn, kind, channel string, count int) {
	equal(c.Receive(), redis.Subscription{Kind: kind, Channel: channel, Count: count})
}

func channels(c, other redis.Conn) {
	listener := redis.PubSubConn{Conn: c}
	must(listener.Subscribe("news", "weather"))
	subscribed(listener, "subscribe", "news", 1)
	subscribed(listener, "subscribe", "weather", 2)
	must(listener.PSubscribe("n?w*"))
	must(listener.Ping("there?"))
	subscribed(listener, "psubscribe", "n?w*", 3)
	equal(listener.Receive(), redis.Pong{Data: "there?"})
	check(other, "PUBLISH news hello", "2")
	equal(text(listener.Receive().(redis.Message).Data, nil), "hello")
	equal(listener.Receive().(redis.Message).Pattern, "n?w*")
	// Messages while a pipeline is on its way; of channels that are together, so in order.
	for number := 0; number < 1000; number++ {
		send(other, fmt.Sprintf("PUBLISH new:{s}:%d %d", number, number))
	}
	must(other.Flush())
	for number := 0; number < 1000; number++ {
		expected := redis.Message{Channel: fmt.Sprintf("new:{s}:%d", number), Pattern: "n?w*", Data: []byte(fmt.Sprint(number))}
		equal(listener.Receive(), expected)
		receive(other, "1")
	}
	must(listener.Unsubscribe("weather"))
	subscribed(listener, "unsubscribe", "weather", 2)
	must(listener.Unsubscribe())
	subscribed(listener, "unsubscribe", "news", 1)
	must(listener.PUnsubscribe())
	subscribed(listener, "punsubscribe", "n?w*", 0)
	check(other, "PUBLISH news nobody", "0")
	check(c, "GET nothing", "nil")
}

func scan(c redis.Conn) {
	const keys = 2000
	for number := 0; number < keys; number++ {
		send(c, fmt.Sprintf("SET scan:%d 1", number))
	}
	_, err := c.Do("")
	must(err)
	seen := map[string]int{}
	for cursor := "0"; ; {
		reply, err := redis.Values(c.Do("SCAN", cursor, "MATCH", "scan:*", "COUNT", 100))
		must(err)
		names, err := redis.Strings(reply[1], nil)
		must(err)
		for _, name := range names {
			seen[name]++
		}
		if cursor = text(reply[0], nil); cursor == "0" {
			break
		}
	}
	equal(len(seen), keys)
}

// The pool cleans up what a connection was left in, with an ECHO of which it knows the answer, and lends it again.
func pool() {
	pool := &redis.Pool{
		Dial:         func() (redis.Conn, error) { return connect(), nil },
		TestOnBorrow: func(c redis.Conn, _ time.Time) error { _, err := c.Do("PING"); return err },
		MaxIdle:      8, MaxActive: 8, Wait: true,
	}
	for _, left := range []string{"WATCH {w}1 {w}2", "MULTI", "SUBSCRIBE left", "PSUBSCRIBE left*"} {
		c := pool.Get()
		send(c, left)
		must(c.Flush())
		_, err := c.Receive()
		must(err)
		must(c.Close())
		again := pool.Get()
		check(again, "GET nothing", "nil")
		check(again, "EXEC", "-ERR EXEC without MULTI")
		must(again.Close())
		equal(pool.ActiveCount(), 1)
	}
	var all sync.WaitGroup
	for number := 0; number < 50; number++ {
		all.Add(1)
		go func(number int) {
			defer all.Done()
			for round := 0; round < 20; round++ {
				c := pool.Get()
				check(c, fmt.Sprintf("INCR pool:%d", number), fmt.Sprint(round+1))
				must(c.Close())
			}
		}(number)
	}
	all.Wait()
	// Whatever was closed behind its back it notices as it lends it.
	c := pool.Get()
	others := pool.ActiveCount() - 1
	// Those that the program has closed are gone.
	for strings.Count(ask(c, "CLIENT LIST TYPE normal"), "\n") != others+1 {
	}
	check(c, "CLIENT KILL TYPE normal SKIPME yes", fmt.Sprint(others))
	must(c.Close())
	for number := 0; number < 8; number++ {
		c := pool.Get()
		check(c, "GET pool:1", "20")
		defer c.Close()
	}
}

func killed() {
	c, other := connect(), connect()
	check(other, "CLIENT KILL ID "+ask(c, "CLIENT ID"), "1")
	if _, err := c.Do("PING"); err == nil || c.Err() == nil {
		fail("a killed client's connection is of no use: %v", err)
	}
	c.Close()
	must(other.Close())
}

func main() {
	if len(os.Args) != 4 || os.Args[2] != "2" {
		fail("redigo PORT 2 PASSWORD: this library speaks RESP2")
	}
	address, password = "127.0.0.1:"+os.Args[1], os.Args[3]
	login()
	c, other := connect(), connect()
	values(c)
	binary(c)
	pipelines(c)
	transactions(c, other)
	scripts(c)
	blocking(c, other)
	channels(c, other)
	scan(c)
	killed()
	must(c.Close())
	must(other.Close())
	pool()
	fmt.Println("all well")
}
