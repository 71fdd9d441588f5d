// Package zbus is an event bus between processes on one machine, without a broker.
//
// A bus is a directory. Whoever opens the same directory, in whatever language, is on the same bus:
//
//	bus, err := zbus.Open(nil)
//	sub, err := bus.Subscribe(ctx, "orders.**")
//	err = bus.Send(ctx, "orders", "order.created", "/orders/1", map[string]any{"total": 9.5})
//	for evt := range sub.Events(ctx) {
//		var order Order
//		err := evt.Decode(&order)
//	}
//
// Subscribe returns once every event that is sent from then on, by any process, will reach the subscription.
// Events of one process arrive in order. What a full queue had no room for is counted exactly: see OnGap and
// Subscription.Lost. Everything here may be used from several goroutines.
//
// Numbers such as W22 and R20 in comments are clauses of docs/spec/wire.md and docs/spec/roster.md.
//
// The file is ordered like a book: events and errors, frames, JSON, patterns, loss, the directory, receiving,
// sending, the bus, and the layer of C at the end.
package zbus

/*
#cgo pkg-config: libzmq
#cgo noescape zb_send
#cgo nocallback zb_send
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

// Every function returns 0 (or what it counts), or minus errno: errno itself does not survive the way to Go.

#define ZB_FRAMES 256
#define ZB_BYTES 65536

// A reader takes many frames in one call, since a call into C costs as much as a small frame.
typedef struct {
	void *socket;
	int wake; // an eventfd: ends a wait
	int held; // whether `next` is a frame that had no room
	zmq_msg_t next;
	unsigned char *bytes;
	size_t capacity;
	int count;
	size_t end[ZB_FRAMES];
} zb_reader;

static int zb_set(void *socket, int option, int value) {
	return zmq_setsockopt(socket, option, &value, sizeof value) ? -zmq_errno() : 0;
}

static int zb_subscribe(void *socket, const void *prefix, size_t size) {
	return zmq_setsockopt(socket, ZMQ_SUBSCRIBE, prefix, size) ? -zmq_errno() : 0;
}

static int zb_bind(void *socket, const char *endpoint) { return zmq_bind(socket, endpoint) ? -zmq_errno() : 0; }
static int zb_connect(void *socket, const char *endpoint) { return zmq_connect(socket, endpoint) ? -zmq_errno() : 0; }

// Has libzmq do what peers have asked for: join, or make room.
static void zb_serve(void *socket) {
	int events;
	size_t size = sizeof events;
	zmq_getsockopt(socket, ZMQ_EVENTS, &events, &size);
}

static int zb_send(void *socket, const void *frame, size_t size, int flags) {
	int rc;
	do rc = zmq_send(socket, frame, size, flags);
	while (rc < 0 && zmq_errno() == EINTR);
	return rc < 0 ? -zmq_errno() : 0;
}

static int zb_wait(void *one, void *two, int milliseconds) {
	zmq_pollitem_t items[2] = {{one, 0, ZMQ_POLLIN, 0}, {two, 0, ZMQ_POLLIN, 0}};
	return zmq_poll(one ? items : items + 1, (one != NULL) + (two != NULL), milliseconds);
}

// Reads one small message without waiting; returns its size.
static int zb_receive(void *socket, void *buffer, size_t size) {
	int rc;
	do rc = zmq_recv(socket, buffer, size, ZMQ_DONTWAIT);
	while (rc < 0 && zmq_errno() == EINTR);
	return rc < 0 ? -zmq_errno() : rc;
}

static int zb_take(zb_reader *r) {
	int rc;
	if (r->held) return 1;
	zmq_msg_init(&r->next);
	do rc = zmq_msg_recv(&r->next, r->socket, ZMQ_DONTWAIT);
	while (rc < 0 && zmq_errno() == EINTR);
	if (rc < 0) {
		rc = zmq_errno();
		zmq_msg_close(&r->next);
		return rc == EAGAIN ? 0 : -rc;
	}
	return r->held = 1;
}

static int zb_room(zb_reader *r, size_t size) {
	unsigned char *bytes;
	if (size < ZB_BYTES) size = ZB_BYTES;
	if (size <= r->capacity && (r->capacity <= 16 * ZB_BYTES || size > r->capacity / 2)) return 0;
	bytes = realloc(r->bytes, size);
	if (bytes == NULL) return -ENOMEM;
	r->bytes = bytes;
	r->capacity = size;
	return 0;
}

// Waits for frames, forever if `milliseconds` is negative, and takes those that are there: r->count of them.
static int zb_read(zb_reader *r, int milliseconds) {
	size_t used = 0, size;
	uint64_t woken;
	int rc = zb_take(r);
	r->count = 0;
	if (rc == 0 && milliseconds != 0) {
		zmq_pollitem_t items[2] = {{r->socket, 0, ZMQ_POLLIN, 0}, {NULL, r->wake, ZMQ_POLLIN, 0}};
		rc = zmq_poll(items, 2, milliseconds);
		if (rc < 0) return zmq_errno() == EINTR ? 0 : -zmq_errno();
		if (items[1].revents & ZMQ_POLLIN && read(r->wake, &woken, sizeof woken) < 0) return 0;
		rc = zb_take(r);
	}
	while (rc > 0) {
		size = zmq_msg_size(&r->next);
		if (r->count == 0) {
			if ((rc = zb_room(r, size)) < 0) return rc;
		} else if (r->count == ZB_FRAMES || used + size > r->capacity)
			break;
		memcpy(r->bytes + used, zmq_msg_data(&r->next), size);
		zmq_msg_close(&r->next);
		r->held = 0;
		r->end[r->count++] = used += size;
		rc = zb_take(r);
	}
	return rc < 0 ? rc : 0;
}

static void zb_close(zb_reader *r) {
	if (r->held) zmq_msg_close(&r->next);
	if (r->socket) zmq_close(r->socket);
	if (r->wake >= 0) close(r->wake);
	free(r->bytes);
	free(r);
}

static int zb_writable(int fd) {
	struct pollfd one = {fd, POLLOUT, 0};
	return poll(&one, 1, 0) > 0;
}

static void zb_wake(int wake) {
	uint64_t one = 1;
	if (write(wake, &one, sizeof one) < 0) return;
}

static int64_t zb_monotonic(void) {
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

// Returns how many microseconds a process has run on a CPU, or -1.
static int64_t zb_cpu(int pid) {
	clockid_t clock;
	struct timespec ran;
	if (clock_getcpuclockid(pid, &clock) || clock_gettime(clock, &ran)) return -1;
	return (int64_t)ran.tv_sec * 1000000 + ran.tv_nsec / 1000;
}
*/
import "C"

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unicode/utf8"
	"unsafe"
)

// ---------------------------------------------------------------------------------------------------------
// Events and errors

// An Event is one event as it was received. Its data is either JSON text, raw bytes, or nothing.
type Event struct {
	System, Kind, Path string

	Data  json.RawMessage // the JSON text of the data; nil if it is bytes or there is none
	Bytes []byte          // raw bytes, possibly empty; nil if the data is JSON or there is none

	Origin string    // who sent it: an id of the sending bus object; empty if untold
	Seq    uint64    // its number among the events of this origin, system and kind; 0 if untold
	Time   time.Time // when it was sent; zero if untold
}

// Decode stores the JSON data in v, as json.Unmarshal does; no data counts as null. Numbers become float64 in
// an `any`: decode into a struct, or use json.Decoder.UseNumber, where they are larger than 2⁵³.
//
// It returns an Error of kind Invalid if the data is bytes or does not fit.
func (e *Event) Decode(v any) error {
	if e.Bytes != nil {
		return invalid("the data of this event is bytes, not JSON: use Event.Bytes")
	}
	text := e.Data
	if text == nil {
		text = json.RawMessage("null")
	}
	if err := json.Unmarshal(text, v); err != nil {
		return &Error{Kind: Invalid, Message: fmt.Sprintf("the data of %s %s does not fit: %v", e.System, e.Kind, err), err: err}
	}
	return nil
}

// A Gap is a run of events that were sent to a subscription and lost: numbers First to Last of one stream.
type Gap struct {
	Origin, System, Kind string
	First, Last          uint64
}

// Count returns how many events the gap has.
func (g Gap) Count() uint64 { return g.Last - g.First + 1 }

// An ErrorKind says what went wrong. It is an error itself, for errors.Is(err, zbus.Timeout).
type ErrorKind string

const (
	Invalid          ErrorKind = "Invalid"          // the call is wrong; nothing was sent
	Timeout          ErrorKind = "Timeout"          // time ran out; nothing was sent, nothing was lost
	Canceled         ErrorKind = "Canceled"         // the bus or the subscription is closed
	PermissionDenied ErrorKind = "PermissionDenied" // the bus directory is not safe to use, or not ours
	Unavailable      ErrorKind = "Unavailable"      // the operating system refused something
)

func (k ErrorKind) Error() string { return "zbus: " + string(k) }

// An Error is every error of this package. Its message says what is wrong and what to do.
type Error struct {
	Kind      ErrorKind
	Message   string
	Retryable bool // whether the same call may succeed later
	err       error
}

func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause, such as an os.PathError or context.DeadlineExceeded, or nil.
func (e *Error) Unwrap() error { return e.err }

// Is reports whether target is the error's kind.
func (e *Error) Is(target error) bool { return target == e.Kind }

func invalid(format string, args ...any) *Error {
	return &Error{Kind: Invalid, Message: fmt.Sprintf(format, args...)}
}

func canceled(what string) *Error { return &Error{Kind: Canceled, Message: what + " is closed"} }

func denied(path, why string) *Error {
	return &Error{Kind: PermissionDenied, Message: path + " " + why, err: syscall.EACCES}
}

// unavailable wraps an error of the operating system, unless it is an Error already.
func unavailable(doing string, err error) error {
	var known *Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	if errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM) {
		return &Error{Kind: PermissionDenied, Message: fmt.Sprintf("cannot %s: %v", doing, err), err: err}
	}
	soon := false
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOSPC, syscall.EDQUOT, syscall.EAGAIN, syscall.ENOBUFS} {
		soon = soon || errors.Is(err, errno)
	}
	return &Error{Kind: Unavailable, Message: fmt.Sprintf("cannot %s: %v", doing, err), Retryable: soon, err: err}
}

// ended returns the error of a call whose context has ended.
func ended(ctx context.Context, waitingFor string) error {
	err := context.Cause(ctx)
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return &Error{Kind: Timeout, Message: waitingFor + " within the deadline of the context", Retryable: true, err: err}
	}
	return &Error{Kind: Canceled, Message: "the context was canceled", err: err}
}

// ---------------------------------------------------------------------------------------------------------
// Frames

const (
	control      = 0xff    // the first byte of the bus's own frames (W13)
	maxGap       = 1 << 40 // W41
	maxTopics    = 65536   // W34, W35
	leastMaximum = 276     // W14
)

// Untold stands for a number that a stamp does not tell.
const Untold = math.MaxUint64

// A Stamp holds the numbers and times of a frame (W5).
type Stamp struct {
	Origin                          string
	Seq, Born, Settled, First, Time uint64
	origin                          [16]byte
}

var noStamp = Stamp{Born: Untold, Settled: Untold, First: Untold, Time: Untold}

// parseStamp reads a stamp into noStamp; it reports whether it is well-formed. An empty one leaves Seq 0.
func parseStamp(raw []byte, s *Stamp) bool {
	if len(raw) == 0 {
		return true
	}
	dot := bytes.IndexByte(raw, '.')
	if dot < 8 || dot > 16 || !isID(raw[:dot]) {
		return false
	}
	copy(s.origin[:], raw[:dot])
	rest := raw[dot+1:]
	seq, rest := cutNumber(rest)
	s.Born, rest = cutNumber(rest)
	s.Settled, rest = cutNumber(rest)
	s.First, rest = cutNumber(rest)
	s.Time, _ = cutNumber(rest)
	s.Seq = seq
	return seq != Untold && seq > 0
}

// cutNumber reads the digits before the next dot; what is not 1 to 19 digits is untold.
func cutNumber(raw []byte) (uint64, []byte) {
	value, i, good := uint64(0), 0, true
	for ; i < len(raw) && raw[i] != '.'; i++ {
		digit := raw[i] - '0'
		good = good && digit <= 9
		value = value*10 + uint64(digit)
	}
	if !good || i == 0 || i > 19 {
		value = Untold
	}
	if i < len(raw) {
		i++
	}
	return value, raw[i:]
}

func isID[T string | []byte](text T) bool {
	for i := 0; i < len(text); i++ {
		if c := text[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// badName says what is wrong with a system or kind (W3), or nothing.
func badName(name string) string {
	switch {
	case name == "":
		return "is required"
	case !utf8.ValidString(name):
		return "is not UTF-8"
	case strings.ContainsRune(name, 0):
		return "contains NUL, which separates fields: remove it"
	case strings.ContainsAny(name, "*()|"):
		return "contains one of '*()|', which only a subscription may use: send a literal name"
	case name[0] == '.' || name[len(name)-1] == '.' || strings.Contains(name, ".."):
		return "has an empty segment: use single dots between words"
	}
	return ""
}

// CheckTopic returns an Error of kind Invalid if no event may be sent to this system and kind.
func CheckTopic(system, kind string) error {
	for _, name := range [][2]string{{"system", system}, {"kind", kind}} {
		if why := badName(name[1]); why == "is required" {
			return invalid("%s is required", name[0])
		} else if why != "" {
			return invalid("%s %q %s", name[0], name[1], why)
		}
	}
	if system == "zbus" || strings.HasPrefix(system, "zbus.") {
		return invalid("system %q is reserved for events of the bus itself: choose another name", system)
	}
	return nil
}

func checkPath(path string) error {
	switch {
	case path == "":
		return invalid("path is required")
	case strings.IndexByte(path, 0) >= 0:
		return invalid("path %q contains NUL, which separates fields: remove it", path)
	case !utf8.ValidString(path):
		return invalid("path %q is not UTF-8", path)
	}
	return nil
}

// appendData appends the data field of an event (W9). It returns an Error of kind Invalid for what no receiver
// takes, or what JSON could only carry as something else.
func appendData(to []byte, data any, depth int) ([]byte, error) {
	switch data := data.(type) {
	case nil:
		return to, nil
	case []byte:
		return append(append(to, 0), data...), nil
	case json.RawMessage:
		if data == nil {
			return to, nil
		}
		if scanWhole(data, depth) {
			return append(to, data...), nil
		}
		return to, invalid("the data is not the JSON that every receiver takes (RFC 8259; finite numbers, UTF-8, whole surrogate pairs, at most 1,024 deep)")
	}
	start, out := len(to), bytes.NewBuffer(to)
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(data); err != nil {
		return to, &Error{Kind: Invalid, Message: fmt.Sprintf("the data cannot be sent as JSON: %v", err), err: err}
	}
	done := out.Bytes()
	done = done[:len(done)-1] // a line feed
	if !scanWhole(done[start:], depth) {
		return to, invalid("the data becomes JSON that no receiver takes: text that is not UTF-8, half a surrogate pair, a number that is infinite, or more than 1,024 levels")
	}
	if bytes.Contains(done[start:], []byte(`\ufffd`)) && !isUTF8(reflect.ValueOf(data), 0) {
		return to, invalid("the data holds text that is not UTF-8: send it as []byte, or clean it with strings.ToValidUTF8")
	}
	return done, nil
}

// isUTF8 reports whether all text in a value is UTF-8; encoding/json would replace what is not.
func isUTF8(v reflect.Value, depth int) bool {
	if depth > 1100 {
		return true
	}
	switch v.Kind() {
	case reflect.String:
		return utf8.ValidString(v.String())
	case reflect.Interface, reflect.Pointer:
		return v.IsNil() || isUTF8(v.Elem(), depth+1)
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			if !isUTF8(v.Index(i), depth+1) {
				return false
			}
		}
	case reflect.Map:
		for each := v.MapRange(); each.Next(); {
			if !isUTF8(each.Key(), depth+1) || !isUTF8(each.Value(), depth+1) {
				return false
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() && !isUTF8(v.Field(i), depth+1) {
				return false
			}
		}
	}
	return true
}

// An Item is one event of a batch; see Bus.SendMany.
type Item struct {
	Path string
	Data any // as in Bus.Send, but not []byte
}

func appendItems(to []byte, items []Item) ([]byte, error) {
	to = append(to, '[')
	for i, item := range items {
		if err := checkPath(item.Path); err != nil {
			return to, err
		}
		if _, raw := item.Data.([]byte); raw {
			return to, invalid("a batch carries JSON only: send bytes one event at a time")
		}
		if i > 0 {
			to = append(to, ',')
		}
		to, _ = appendData(append(to, '['), item.Path, 1)
		if item.Data != nil {
			var err error
			if to, err = appendData(append(to, ','), item.Data, 2); err != nil {
				return to, err
			}
			if to[len(to)-1] == ',' { // a nil json.RawMessage
				to = to[:len(to)-1]
			}
		}
		to = append(to, ']')
	}
	return append(to, ']'), nil
}

// EncodeFrame returns the frame of an event, or of a batch if items is not nil, with a ready stamp. It is for
// tools: Send makes its frames of the same parts.
func EncodeFrame(system, kind, path, stamp string, data any, items []Item) ([]byte, error) {
	if err := CheckTopic(system, kind); err != nil {
		return nil, err
	}
	frame := append(appendTopic(nil, system, kind), path...)
	frame = append(append(append(frame, 0), stamp...), 0)
	if items != nil {
		return appendItems(frame, items)
	}
	if err := checkPath(path); err != nil {
		return nil, err
	}
	return appendData(frame, data, 0)
}

func appendTopic(to []byte, system, kind string) []byte {
	return append(append(append(append(to, system...), 0), kind...), 0)
}

// ---------------------------------------------------------------------------------------------------------
// JSON: exactly what every receiver takes (W51), in one pass; encoding/json takes more

const maxDepth = 1024

// scanWhole reports whether a text is one JSON value, inside `depth` arrays and objects.
func scanWhole(text []byte, depth int) bool {
	end := scanValue(text, skipSpace(text, 0), depth)
	return end >= 0 && skipSpace(text, end) == len(text)
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// scanValue returns where the value that begins at i ends, or -1. So do the other scan functions.
func scanValue(b []byte, i, depth int) int {
	if i >= len(b) {
		return -1
	}
	switch b[i] {
	case '"':
		return scanString(b, i)
	case '{', '[':
		return scanContainer(b, i, depth+1)
	case 't':
		return scanWord(b, i, "true")
	case 'f':
		return scanWord(b, i, "false")
	case 'n':
		return scanWord(b, i, "null")
	}
	return scanNumber(b, i)
}

func scanWord(b []byte, i int, word string) int {
	if len(b)-i < len(word) || string(b[i:i+len(word)]) != word {
		return -1
	}
	return i + len(word)
}

func scanContainer(b []byte, i, depth int) int {
	if depth > maxDepth {
		return -1
	}
	object := b[i] == '{'
	closing := b[i] + 2 // in ASCII, both closing brackets are two after the opening ones
	if i = skipSpace(b, i+1); i < len(b) && b[i] == closing {
		return i + 1
	}
	for {
		if object {
			if i >= len(b) || b[i] != '"' {
				return -1
			}
			if i = scanString(b, i); i < 0 {
				return -1
			}
			if i = skipSpace(b, i); i >= len(b) || b[i] != ':' {
				return -1
			}
			i = skipSpace(b, i+1)
		}
		if i = scanValue(b, i, depth); i < 0 {
			return -1
		}
		if i = skipSpace(b, i); i >= len(b) {
			return -1
		}
		if b[i] == closing {
			return i + 1
		}
		if b[i] != ',' {
			return -1
		}
		i = skipSpace(b, i+1)
	}
}

func scanString(b []byte, i int) int {
	for i++; i < len(b); {
		switch c := b[i]; {
		case c == '"':
			return i + 1
		case c == '\\':
			if i = scanEscape(b, i); i < 0 {
				return -1
			}
		case c < 0x20:
			return -1
		case c < utf8.RuneSelf:
			i++
		default:
			r, size := utf8.DecodeRune(b[i:])
			if r == utf8.RuneError && size == 1 {
				return -1
			}
			i += size
		}
	}
	return -1
}

func scanEscape(b []byte, i int) int {
	if i+1 >= len(b) {
		return -1
	}
	if b[i+1] != 'u' {
		if strings.IndexByte(`"\/bfnrt`, b[i+1]) < 0 {
			return -1
		}
		return i + 2
	}
	first := hex4(b, i)
	switch {
	case first < 0 || first >= 0xdc00 && first < 0xe000:
		return -1
	case first >= 0xd800 && first < 0xdc00:
		if second := hex4(b, i+6); second < 0xdc00 || second >= 0xe000 {
			return -1
		}
		return i + 12
	}
	return i + 6
}

// hex4 returns the number in a \uXXXX escape at i, or -1.
func hex4(b []byte, i int) int {
	if i+6 > len(b) || b[i] != '\\' || b[i+1] != 'u' {
		return -1
	}
	value := 0
	for _, c := range b[i+2 : i+6] {
		switch {
		case c >= '0' && c <= '9':
			value = value<<4 | int(c-'0')
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			value = value<<4 | int(c|0x20-'a'+10)
		default:
			return -1
		}
	}
	return value
}

func scanNumber(b []byte, i int) int {
	start := i
	if i < len(b) && b[i] == '-' {
		i++
	}
	if i < len(b) && b[i] == '0' {
		i++
	} else if i = scanDigits(b, i); i < 0 {
		return -1
	}
	if i < len(b) && b[i] == '.' {
		if i = scanDigits(b, i+1); i < 0 {
			return -1
		}
	}
	exponent := 0
	if i < len(b) && b[i]|0x20 == 'e' {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		digits := i
		if i = scanDigits(b, i); i < 0 {
			return -1
		}
		exponent = i - digits
	}
	if exponent >= 3 || i-start >= 200 { // otherwise it cannot be infinite
		if value, _ := strconv.ParseFloat(string(b[start:i]), 64); math.IsInf(value, 0) {
			return -1
		}
	}
	return i
}

func scanDigits(b []byte, i int) int {
	start := i
	for i < len(b) && b[i] >= '0' && b[i] <= '9' {
		i++
	}
	if i == start {
		return -1
	}
	return i
}

// scanItems appends the events of a batch (W12) to `to`; it reports whether the text is one.
func scanItems(b []byte, to []Event) ([]Event, bool) {
	i := skipSpace(b, 0)
	if i >= len(b) || b[i] != '[' {
		return to, false
	}
	if i = skipSpace(b, i+1); i < len(b) && b[i] == ']' {
		return to, skipSpace(b, i+1) == len(b)
	}
	for {
		var evt Event
		if i = scanItem(b, i, &evt); i < 0 {
			return to, false
		}
		to = append(to, evt)
		if i = skipSpace(b, i); i >= len(b) {
			return to, false
		}
		if b[i] == ']' {
			return to, skipSpace(b, i+1) == len(b)
		}
		if b[i] != ',' {
			return to, false
		}
		i = skipSpace(b, i+1)
	}
}

func scanItem(b []byte, i int, evt *Event) int {
	if i >= len(b) || b[i] != '[' {
		return -1
	}
	start := skipSpace(b, i+1)
	if start >= len(b) || b[start] != '"' {
		return -1
	}
	if i = scanString(b, start); i < 0 {
		return -1
	}
	evt.Path = string(b[start+1 : i-1])
	if strings.IndexByte(evt.Path, '\\') >= 0 && json.Unmarshal(b[start:i], &evt.Path) != nil {
		return -1
	}
	if evt.Path == "" || strings.IndexByte(evt.Path, 0) >= 0 {
		return -1
	}
	if i = skipSpace(b, i); i < len(b) && b[i] == ',' {
		start = skipSpace(b, i+1)
		if i = scanValue(b, start, 2); i < 0 {
			return -1
		}
		evt.Data = json.RawMessage(b[start:i:i])
		i = skipSpace(b, i)
	}
	if i >= len(b) || b[i] != ']' {
		return -1
	}
	return i + 1
}

// ---------------------------------------------------------------------------------------------------------
// Patterns

// A Pattern selects names. Its segments are separated by dots: `*` selects one segment, `**` any number of
// them, `(a|b)` one of these, anything else itself. `*` on its own selects everything.
type Pattern struct {
	segments []segment
}

type segment struct {
	any, anyDepth bool
	words         []string // sorted, one if it is literal
}

// ParsePattern compiles a pattern. It returns an Error of kind Invalid that names the form to use.
func ParsePattern(pattern string) (*Pattern, error) {
	no := func(advice string) (*Pattern, error) {
		return nil, invalid("%q is not a pattern: %s", pattern, advice)
	}
	switch {
	case pattern == "":
		return nil, invalid("a pattern is required: use '**' for everything")
	case !utf8.ValidString(pattern):
		return no("it is not UTF-8")
	case strings.IndexByte(pattern, 0) >= 0:
		return no("it contains NUL, which separates fields")
	case pattern == "*":
		pattern = "**"
	}
	p := &Pattern{}
	for _, part := range strings.Split(pattern, ".") {
		switch {
		case part == "*" || part == "**":
			p.segments = append(p.segments, segment{any: part == "*", anyDepth: part == "**"})
			continue
		case part == "":
			return no("it has an empty segment, use single dots between words, or '**' for any depth")
		case part == ">" || part == "#" || part == "+":
			return no(fmt.Sprintf("for exactly one segment use '*', for any depth '**', not %q", part))
		}
		words := []string{part}
		if inner := len(part) - 1; inner > 0 && part[0] == '(' && part[inner] == ')' {
			words = strings.Split(part[1:inner], "|")
			slices.Sort(words)
			words = slices.Compact(words)
		}
		for _, word := range words {
			if word == "" || strings.ContainsAny(word, "*()|") || word == ">" || word == "#" || word == "+" {
				return no("a wildcard is a whole segment, as in 'orders.*' or 'orders.**', and a bracket lists whole literal segments, as in '(a|b)'")
			}
		}
		p.segments = append(p.segments, segment{words: words})
	}
	return p, nil
}

// Match reports whether the pattern selects a name. The time is linear for each `**`.
func (p *Pattern) Match(name string) bool {
	words, i, w := strings.Split(name, "."), 0, 0
	star, mark := -1, 0
	for w < len(words) {
		switch {
		case i < len(p.segments) && p.segments[i].anyDepth:
			star, mark = i, w
			i++
		case i < len(p.segments) && (p.segments[i].any || slices.Contains(p.segments[i].words, words[w])):
			i++
			w++
		case star >= 0: // let the last `**` take one word more
			mark++
			i, w = star+1, mark
		default:
			return false
		}
	}
	return !slices.ContainsFunc(p.segments[i:], func(s segment) bool { return !s.anyDepth })
}

func (p *Pattern) everything() bool {
	return !slices.ContainsFunc(p.segments, func(s segment) bool { return !s.anyDepth })
}

const maxPrefixes = 16

// Prefixes returns the ZeroMQ subscriptions of a channel, sorted (W22). Without kind, every kind is selected.
func Prefixes(system, kind *Pattern) []string {
	heads, literal := system.heads()
	if literal {
		tails, end := []string{""}, ""
		if kind != nil && !kind.everything() {
			more, closed := kind.heads()
			if len(heads)*len(more) <= maxPrefixes {
				tails = more
				if closed {
					end = "\x00"
				}
			}
		}
		heads = each(heads, "\x00", tails)
		heads = each(heads, end, []string{""})
	}
	slices.Sort(heads)
	return heads
}

// heads returns the texts before the first wildcard, and whether there is none.
func (p *Pattern) heads() ([]string, bool) {
	heads, dot := []string{""}, ""
	for _, s := range p.segments {
		switch {
		case s.anyDepth:
			return heads, false
		case s.any || len(heads)*len(s.words) > maxPrefixes:
			return each(heads, dot, []string{""}), false
		}
		heads, dot = each(heads, dot, s.words), "."
	}
	return heads, true
}

func each(heads []string, between string, tails []string) []string {
	both := make([]string, 0, len(heads)*len(tails))
	for _, head := range heads {
		for _, tail := range tails {
			both = append(both, head+between+tail)
		}
	}
	return both
}

// ---------------------------------------------------------------------------------------------------------
// Loss

// A Decoder turns the frames of one channel, in the order in which they arrived, into events and gaps. It is
// what a Subscription does with its frames, for tools and tests. It is not for several goroutines at once.
type Decoder struct {
	Lost      uint64 // events so far
	Malformed uint64 // frames so far
	Stamp     Stamp  // of the latest frame

	system, kind *Pattern
	limit        int
	announced    uint64 // Untold: before everything
	joined       uint64 // Untold: after everything
	forgetful    bool
	latestBorn   uint64

	topics     map[string]*heardTopic
	young, old map[streamKey]*stream
	lastKey    streamKey
	last       *stream

	events []Event
	gaps   []Gap
}

type heardTopic struct {
	head, system, kind string
	wanted             bool
}

type streamKey struct {
	head   string
	origin [16]byte
}

type stream struct {
	origin     string
	begin, due uint64
}

// NewDecoder decodes for a channel that selects by these patterns; kind may be nil. It was announced and had
// joined at these times, in microseconds of CLOCK_MONOTONIC (W28, W38); negative if unknown. It remembers the
// streams that it used last, at least `limit`.
func NewDecoder(system, kind *Pattern, announced, joined int64, limit int) *Decoder {
	d := &Decoder{
		system: system, kind: kind, limit: limit,
		topics: map[string]*heardTopic{}, young: map[streamKey]*stream{}, old: map[streamKey]*stream{},
	}
	d.setJoined(announced, joined)
	return d
}

func (d *Decoder) setJoined(announced, joined int64) {
	d.announced, d.joined, d.forgetful = Untold, Untold, joined < 0
	if announced >= 0 {
		d.announced = uint64(announced)
	}
	if joined >= 0 {
		d.joined = uint64(joined)
	}
}

// Decode returns the events of a frame for this channel, and what it shows as lost before them. Both slices
// are valid until the next call; the events refer to the frame.
func (d *Decoder) Decode(frame []byte) ([]Event, []Gap) {
	d.events, d.gaps = d.events[:0], d.gaps[:0]
	d.Stamp = noStamp
	if len(frame) > 0 && frame[0] == control {
		return nil, nil
	}
	if !d.decode(frame) {
		d.Malformed++
		return nil, d.gaps[:0]
	}
	return d.events, d.gaps
}

func (d *Decoder) decode(frame []byte) bool {
	a := bytes.IndexByte(frame, 0)
	b := nextNUL(frame, a)
	c := nextNUL(frame, b)
	e := nextNUL(frame, c)
	if e < 0 {
		return false
	}
	t := d.topic(frame[:b+1], a)
	if t == nil || !t.wanted {
		return t != nil
	}
	if !utf8.Valid(frame[b+1 : c]) {
		return false
	}
	path, data := unsafeString(frame[b+1:c]), frame[e+1:]
	if !parseStamp(frame[c+1:e], &d.Stamp) || !d.decodeData(path, data) {
		return false
	}
	if d.Stamp.Seq > 0 && !d.count(t) {
		return false
	}
	var at time.Time
	if sent := d.Stamp.Time; sent != Untold {
		at = time.Unix(int64(sent/1e6), int64(sent%1e6)*1000)
	}
	for i := range d.events {
		evt := &d.events[i]
		evt.System, evt.Kind, evt.Time = t.system, t.kind, at
		if d.Stamp.Seq > 0 {
			evt.Origin, evt.Seq = d.Stamp.Origin, d.Stamp.Seq+uint64(i)
		}
	}
	return true
}

func nextNUL(frame []byte, after int) int {
	if after < 0 {
		return -1
	}
	i := bytes.IndexByte(frame[after+1:], 0)
	if i < 0 {
		return -1
	}
	return after + 1 + i
}

// unsafeString returns bytes that nobody will write to as a string, without a copy.
func unsafeString(raw []byte) string { return unsafe.String(unsafe.SliceData(raw), len(raw)) }

// topic looks up system NUL kind NUL; it returns nil if these are no names.
func (d *Decoder) topic(head []byte, nul int) *heardTopic {
	if t := d.topics[string(head)]; t != nil {
		return t
	}
	own := string(head)
	system, kind := own[:nul], own[nul+1:len(own)-1]
	if badName(system) != "" || badName(kind) != "" {
		return nil
	}
	t := &heardTopic{head: own, system: system, kind: kind}
	t.wanted = d.system.Match(system) && (d.kind == nil || d.kind.Match(kind))
	if len(d.topics) >= maxTopics {
		clear(d.topics)
	}
	d.topics[own] = t
	return t
}

func (d *Decoder) decodeData(path string, data []byte) bool {
	if path == "" {
		var good bool
		if len(data) == 0 || data[0] == 0 {
			return false
		}
		d.events, good = scanItems(data, d.events)
		return good && (len(d.events) > 0 || d.Stamp.Seq > 0)
	}
	evt := Event{Path: path}
	switch {
	case len(data) == 0:
	case data[0] == 0:
		evt.Bytes = data[1:len(data):len(data)]
	case scanWhole(data, 0):
		evt.Data = json.RawMessage(data[:len(data):len(data)])
	default:
		return false
	}
	d.events = append(d.events, evt)
	return true
}

// count accounts for the frame that was just read (W29 to W41); it reports whether its number is credible.
func (d *Decoder) count(t *heardTopic) bool {
	stamp, events := &d.Stamp, uint64(len(d.events))
	key := streamKey{t.head, stamp.origin}
	s := d.find(key)
	due, counted := uint64(0), true
	if s != nil {
		due, stamp.Origin = s.due, s.origin
	} else {
		due, counted = d.firstDue(stamp)
		stamp.Origin = strings.TrimRight(string(stamp.origin[:]), "\x00")
	}
	if counted && stamp.Seq > due && stamp.Seq-due > maxGap {
		return false
	}
	if s == nil {
		if stamp.Born != Untold {
			d.latestBorn = max(d.latestBorn, stamp.Born)
		}
		if !counted {
			return true
		}
		s = &stream{origin: stamp.Origin, begin: due, due: due}
		d.keep(key, s)
	} else if events == 0 {
		d.countHead(t, s)
	}
	if due < stamp.Seq {
		d.lose(t, s, due, stamp.Seq-1)
	}
	if s.due = stamp.Seq + events; events == 0 {
		s.due = max(due, stamp.Seq)
	}
	return true
}

// firstDue returns the number that is due when a stream is first seen, and whether it is counted yet (W29).
func (d *Decoder) firstDue(stamp *Stamp) (uint64, bool) {
	switch {
	case stamp.Born != Untold && stamp.Born > d.joined:
		return 1, true
	case stamp.Settled == Untold:
	case d.announced != Untold && stamp.Settled <= d.announced:
		return 0, false
	case stamp.First > 0 && stamp.First <= stamp.Seq && !d.forgetful:
		return stamp.First, true
	}
	return stamp.Seq, true
}

// countHead counts what a mark shows that was lost before the stream was counted (W40).
func (d *Decoder) countHead(t *heardTopic, s *stream) {
	settled, first := d.Stamp.Settled, d.Stamp.First
	if d.forgetful || settled == Untold || d.announced != Untold && settled <= d.announced {
		return
	}
	if first > 0 && first < s.begin && s.begin-first <= maxGap {
		d.lose(t, s, first, s.begin-1)
		s.begin = first
	}
}

func (d *Decoder) lose(t *heardTopic, s *stream, first, last uint64) {
	d.gaps = append(d.gaps, Gap{s.origin, t.system, t.kind, first, last})
	d.Lost += last - first + 1
}

func (d *Decoder) find(key streamKey) *stream {
	if d.last != nil && d.lastKey == key {
		return d.last
	}
	s := d.young[key]
	if s == nil {
		if s = d.old[key]; s == nil {
			return nil
		}
		delete(d.old, key)
		d.keep(key, s)
	}
	d.lastKey, d.last = key, s
	return s
}

// keep makes a stream one of the young. When there are too many, the old ones are forgotten (W34).
func (d *Decoder) keep(key streamKey, s *stream) {
	if len(d.young) >= d.limit {
		if len(d.old) > 0 {
			d.forgetful = true
			if d.joined != Untold {
				d.joined = max(d.joined, d.latestBorn)
			}
		}
		d.young, d.old = map[streamKey]*stream{}, d.young
	}
	d.young[key] = s
	d.lastKey, d.last = key, s
}

// ---------------------------------------------------------------------------------------------------------
// The directory: where it is, who may use it, what is in it

const (
	drop = iota
	block
)

var overflows = [2]string{"drop", "block"}

var (
	busName    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$`)
	entryName  = regexp.MustCompile(`^([0-9a-f]{8,32})\.([1-9][0-9]{0,17})\.(drop|block)$`)
	otherName  = regexp.MustCompile(`^([0-9a-f]{8,32})\.(sock|member|new)$`)
	socketName = regexp.MustCompile(`^([0-9a-f]{8,32})\.(?:sock|new)$`)
)

// A FileName says what a file of a bus directory is (R5): an entry, which has an epoch and an overflow policy,
// or a "socket", "member", "new" or "token".
type FileName struct {
	ID, Is   string
	Epoch    uint64
	Overflow string
}

// ParseFileName returns what a name stands for, and whether it is one that a peer may touch.
func ParseFileName(name string) (FileName, bool) {
	if m := entryName.FindStringSubmatch(name); m != nil {
		epoch, _ := strconv.ParseUint(m[2], 10, 64)
		return FileName{ID: m[1], Is: "entry", Epoch: epoch, Overflow: m[3]}, true
	}
	if m := otherName.FindStringSubmatch(name); m != nil {
		return FileName{ID: m[1], Is: strings.Replace(m[2], "sock", "socket", 1)}, true
	}
	return FileName{Is: name}, name == "token"
}

// ParseSentinel returns the ingress and epoch of a sentinel (W26), and whether the topic is one.
func ParseSentinel(topic []byte) (id string, epoch uint64, good bool) {
	if len(topic) == 0 || topic[0] != control {
		return "", 0, false
	}
	m := entryName.FindStringSubmatch(string(topic[1:]) + ".drop")
	if m == nil {
		return "", 0, false
	}
	epoch, _ = strconv.ParseUint(m[2], 10, 64)
	return m[1], epoch, true
}

// LibraryVersion returns the version of libzmq that this program runs with.
func LibraryVersion() string {
	var major, minor, patch C.int
	C.zmq_version(&major, &minor, &patch)
	return fmt.Sprintf("%d.%d.%d", major, minor, patch)
}

// ValidBus reports whether a bus may have this name.
func ValidBus(name string) bool { return busName.MatchString(name) }

// DefaultRoot returns the directory that holds all buses of this user (R1).
func DefaultRoot() string {
	if dir := os.Getenv("ZBUS_DIR"); dir != "" {
		return dir
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		if info, err := os.Stat(dir); err != nil || owner(info) == os.Geteuid() {
			return filepath.Join(dir, "zbus")
		}
	}
	dir := os.Getenv("TMPDIR")
	if dir == "" {
		dir = "/tmp"
	}
	return filepath.Join(dir, fmt.Sprintf("zbus-%d", os.Geteuid()))
}

func owner(info os.FileInfo) int { return int(info.Sys().(*syscall.Stat_t).Uid) }

func newID() string {
	var raw [8]byte
	rand.Read(raw[:])
	return hex.EncodeToString(raw[:])
}

// An identity tells files apart, also if the number of an inode is used again.
type identity struct{ device, inode, changed uint64 }

func identify(path string) identity {
	var s syscall.Stat_t
	if syscall.Lstat(path, &s) != nil {
		return identity{}
	}
	return identity{uint64(s.Dev), s.Ino, uint64(s.Ctim.Nano())}
}

// leadsTo reports whether a path still leads to an open file.
func leadsTo(path string, file *os.File) bool {
	there, err := os.Lstat(path)
	if err != nil {
		return false
	}
	here, err := file.Stat()
	return err == nil && os.SameFile(there, here)
}

// openRegular opens a regular file, follows no link, and never blocks (R32).
func openRegular(path string, flags int, mode os.FileMode) (*os.File, error) {
	file, err := os.OpenFile(path, flags|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, mode)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &os.PathError{Op: "open", Path: path, Err: errors.New("not a regular file")}
	}
	if err == nil && flags&os.O_CREATE != 0 {
		err = file.Chmod(mode)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// removeOurs removes a regular file or a socket; it reports whether it did.
func removeOurs(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() && info.Mode().Type() != os.ModeSocket {
		return false
	}
	return syscall.Unlink(path) == nil
}

// answers reports whether a process listens at a socket (R26); in doubt, it does. The kernel tells a datagram
// socket so without a connection.
func answers(path string) bool {
	info, err := os.Lstat(path)
	if err != nil {
		return !os.IsNotExist(err)
	}
	if info.Mode().Type() != os.ModeSocket {
		return false
	}
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return true
	}
	defer syscall.Close(fd)
	err = syscall.Connect(fd, &syscall.SockaddrUnix{Name: path})
	return err != syscall.ECONNREFUSED && err != syscall.ENOENT
}

// unlocked reports whether the owner of a member file is gone (R31).
func unlocked(path string) bool {
	file, err := openRegular(path, os.O_RDONLY, 0)
	if err != nil {
		return false
	}
	defer file.Close()
	return syscall.Flock(int(file.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) == nil
}

// rights are those of what is created in a directory (R48).
type rights struct {
	group     int // -1 if it is private
	directory os.FileMode
}

var private = rights{-1, 0o700}

func (r rights) file() os.FileMode {
	if r.group < 0 {
		return 0o600
	}
	return 0o660
}

func rightsBelow(info os.FileInfo) rights {
	mode := info.Mode()
	if mode&os.ModeSetgid != 0 && mode&0o070 == 0o070 && mode&0o002 == 0 {
		return rights{int(info.Sys().(*syscall.Stat_t).Gid), mode&(os.ModePerm|os.ModeSetgid|os.ModeSticky) | 0o700}
	}
	return private
}

const toShare = "Several users share a bus in a directory prepared for a group of theirs, with ZBUS_DIR set to it for all of them: install -d -g GROUP -m 2770 DIRECTORY"

// checkDirectory refuses a directory that another user controls or can write to (R46, R47).
func checkDirectory(path string, byDefault, last bool) (rights, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return private, unavailable("use "+path, err)
	}
	uid, me, r := owner(info), os.Geteuid(), rightsBelow(info)
	switch {
	case info.Mode()&os.ModeSymlink != 0:
		return r, denied(path, "is a symbolic link: name the directory itself")
	case !info.IsDir():
		return r, denied(path, "is not a directory: remove it or set ZBUS_DIR")
	case info.Mode()&0o002 != 0:
		return r, denied(path, "is writable by everybody, who could forge events: chmod o-w it")
	case byDefault && uid != me:
		return r, denied(path, fmt.Sprintf("belongs to user %d, and it is where user %d has buses of their own: remove it, or set ZBUS_DIR. %s", uid, me, toShare))
	case r.group >= 0 && !inGroup(r.group):
		return r, denied(path, fmt.Sprintf("is for group %d, and this process is not in it: add the user to the group (usermod -aG) and log in again", r.group))
	case r.group >= 0 && info.Mode()&os.ModeSticky != 0:
		return r, denied(path, "has the sticky bit, so nobody could clean up after another user: chmod -t it")
	case r.group < 0 && uid != me && (last || uid != 0 || info.Mode()&0o020 != 0 || syscall.Access(path, 1) != nil):
		return r, denied(path, fmt.Sprintf("belongs to user %d, for them alone: share another directory with them. %s", uid, toShare))
	}
	return r, nil
}

func inGroup(group int) bool {
	groups, _ := os.Getgroups()
	return os.Geteuid() == 0 || os.Getegid() == group || slices.Contains(groups, group)
}

// makeDirectory creates a directory unless it exists. One for a group is renamed once it has its rights.
func makeDirectory(path string, r rights) error {
	if r.group < 0 {
		if err := os.Mkdir(path, r.directory); err != nil && !os.IsExist(err) {
			return err
		}
		return nil
	}
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	scratch := filepath.Join(filepath.Dir(path), "."+newID()+".new")
	if err := os.Mkdir(scratch, r.directory.Perm()); err != nil {
		return err
	}
	err := os.Lchown(scratch, -1, r.group)
	if err == nil {
		err = os.Chmod(scratch, r.directory)
	}
	if err == nil {
		err = os.Rename(scratch, path)
	}
	if err != nil {
		os.Remove(scratch)
		if _, there := os.Lstat(path); there == nil {
			return nil
		}
	}
	return err
}

// makeBus creates what is missing of the path of a bus, and checks the rest (R3).
func makeBus(path string, byDefault bool) (rights, error) {
	root := filepath.Dir(filepath.Dir(path))
	r := private
	if _, err := os.Lstat(root); err != nil {
		if err := checkParents(root); err != nil {
			return r, err
		}
		if err := os.MkdirAll(filepath.Dir(root), 0o777); err != nil {
			return r, unavailable("create "+filepath.Dir(root), err)
		}
	}
	if info, err := os.Lstat(filepath.Dir(root)); err == nil && !byDefault {
		if above := rightsBelow(info); above.directory&0o007 == 0 {
			r = above
		}
	}
	for _, directory := range []string{root, filepath.Dir(path), path} {
		err := makeDirectory(directory, r)
		if err != nil {
			return r, unavailable("create "+directory, err)
		}
		if r, err = checkDirectory(directory, byDefault && directory == root, directory == path); err != nil {
			return r, err
		}
	}
	return r, nil
}

// checkParents refuses to create a root as root inside a directory of another user (R49).
func checkParents(root string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	parent := filepath.Dir(root)
	info, err := os.Stat(parent)
	for err != nil && parent != "/" {
		parent = filepath.Dir(parent)
		info, err = os.Stat(parent)
	}
	if err == nil && owner(info) != 0 && info.Mode()&0o002 == 0 && rightsBelow(info).group < 0 {
		return denied(root, fmt.Sprintf("would be root's, in a directory of user %d, who could not use it: run this as that user. %s", owner(info), toShare))
	}
	return nil
}

// A handle is an open bus directory: a descriptor with a shared lock (R35), and the token (R10).
type handle struct {
	directory, token *os.File
	mapped           []byte
	rights           rights
}

func openHandle(path string, byDefault bool) (*handle, error) {
	var failed error
	for range 10 { // it may be removed and created again meanwhile
		r, err := makeBus(path, byDefault)
		if err == nil {
			h := &handle{rights: r}
			if err = h.open(path); err == nil && h.current(path) {
				return h, nil
			}
			h.close()
		}
		if failed = err; err != nil && !errors.Is(err, syscall.ENOENT) {
			break
		}
	}
	if failed == nil {
		failed = &Error{Kind: Unavailable, Message: path + " is removed again and again: find out by whom"}
	}
	return nil, unavailable("open "+path, failed)
}

func (h *handle) open(path string) (err error) {
	if h.directory, err = os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0); err != nil {
		return err
	}
	syscall.Flock(int(h.directory.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
	name := filepath.Join(path, "token")
	for {
		if h.token, err = openRegular(name, os.O_RDWR, 0); !os.IsNotExist(err) {
			break
		}
		if err = h.createToken(path); err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	if info, err := h.token.Stat(); err == nil && info.Size() < 8 {
		if err := h.touch(); err != nil {
			return err
		}
	}
	h.mapped, err = syscall.Mmap(int(h.token.Fd()), 0, 8, syscall.PROT_READ, syscall.MAP_SHARED)
	return err
}

func (h *handle) createToken(path string) error {
	scratch := filepath.Join(path, newID()+".new")
	file, err := openRegular(scratch, os.O_RDWR|os.O_CREATE|os.O_EXCL, h.rights.file())
	if err != nil {
		return err
	}
	defer os.Remove(scratch)
	defer file.Close()
	var raw [8]byte
	rand.Read(raw[:])
	if _, err := file.WriteAt(raw[:], 0); err != nil {
		return err
	}
	if err := os.Link(scratch, filepath.Join(path, "token")); err != nil && !os.IsExist(err) {
		return err
	}
	return nil
}

// read returns the token. It is one load from memory.
func (h *handle) read() uint64 {
	return atomic.LoadUint64((*uint64)(unsafe.Pointer(unsafe.SliceData(h.mapped))))
}

// touch writes a new token, so that everybody looks again.
func (h *handle) touch() error {
	var raw [8]byte
	rand.Read(raw[:])
	_, err := h.token.WriteAt(raw[:], 0)
	return unavailable("write the token", err)
}

func (h *handle) current(path string) bool {
	return leadsTo(path, h.directory) && leadsTo(filepath.Join(path, "token"), h.token)
}

func (h *handle) close() {
	if h.mapped != nil {
		syscall.Munmap(h.mapped)
	}
	if h.token != nil {
		h.token.Close()
	}
	if h.directory != nil {
		h.directory.Close()
	}
}

// A roster is the directory of one bus.
type roster struct {
	path      string
	byDefault bool
	now       atomic.Pointer[handle]
	mu        sync.Mutex
	former    []*handle           // open as long as the bus, since others may still have their tokens mapped
	dead      map[string]identity // ingresses that did not answer, and what their sockets were (R33)
	leftovers bool                // whether cleaning up has not finished
}

func openRoster(root, bus string, byDefault bool) (*roster, error) {
	if !ValidBus(bus) {
		return nil, invalid("%q is not a bus name: use letters, digits, '_', '-', '.', at most 64", bus)
	}
	if strings.IndexByte(root, 0) >= 0 {
		return nil, invalid("the directory %q contains NUL, which no path may", root)
	}
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, unavailable("find the working directory", err)
	}
	r := &roster{path: filepath.Join(root, "v1", bus), byDefault: byDefault, dead: map[string]identity{}}
	if length := len(r.path) + len("/0123456789abcdef.sock"); length > 107 {
		return nil, invalid("%s is too long: its sockets would have %d bytes of at most 107; shorten ZBUS_DIR, or the bus name", r.path, length)
	}
	lost := r.lostToken()
	h, err := openHandle(r.path, byDefault)
	if err != nil {
		return nil, err
	}
	r.now.Store(h)
	if lost {
		time.Sleep(1250 * time.Millisecond) // until the others have noticed
	}
	return r, nil
}

// lostToken reports whether there are live members and no token: somebody has removed it (R10).
func (r *roster) lostToken() bool {
	names, err := r.list()
	if err != nil || slices.Contains(names, "token") {
		return false
	}
	alive := slices.ContainsFunc(names, func(name string) bool {
		file, good := ParseFileName(name)
		return good && file.Is == "member" && !unlocked(r.file(name))
	})
	_, err = os.Lstat(r.file("token"))
	return alive && err != nil
}

func (r *roster) file(name string) string { return filepath.Join(r.path, name) }
func (r *roster) token() uint64           { return r.now.Load().read() }

func (r *roster) list() ([]string, error) {
	directory, err := os.Open(r.path)
	if err != nil {
		return nil, err
	}
	defer directory.Close()
	return directory.Readdirnames(-1)
}

// entries returns the newest entry of each ingress, as of one moment (R7, R13).
func (r *roster) entries() (map[string]FileName, error) {
	for {
		before := r.token()
		names, err := r.list()
		if err != nil {
			return nil, unavailable("list "+r.path, err)
		}
		if r.token() != before {
			continue
		}
		found := map[string]FileName{}
		for _, name := range names {
			if file, good := ParseFileName(name); good && file.Is == "entry" && file.Epoch > found[file.ID].Epoch {
				found[file.ID] = file
			}
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		for id, socket := range r.dead {
			if _, listed := found[id]; listed && identify(r.file(id+".sock")) == socket {
				delete(found, id)
			} else {
				delete(r.dead, id)
			}
		}
		return found, nil
	}
}

func (r *roster) alive(id string) bool { return answers(r.file(id + ".sock")) }

// bury removes the files of a dead ingress (R27), and lists it no more if that fails (R33).
func (r *roster) bury(id string, names []string) (removed bool) {
	socket := r.file(id + ".sock")
	r.mu.Lock()
	r.dead[id] = identify(socket)
	r.mu.Unlock()
	for _, name := range names {
		if file, good := ParseFileName(name); good && file.Is == "entry" && file.ID == id {
			removed = removeOurs(r.file(name)) || removed
		}
	}
	return removeOurs(socket) || removed
}

// reap removes what dead processes left, for a moment; the next call goes on (R28, R34).
func (r *roster) reap(patience time.Duration) {
	names, err := r.list()
	if err != nil {
		return
	}
	until, removed := time.Now().Add(patience), false
	seen := map[string]bool{}
	first := 0
	if len(names) > 0 {
		first = int(time.Now().UnixNano() % int64(len(names))) // so that live files do not take the time of each call
	}
	r.leftovers = false
	for i := range names {
		if i >= 100 && time.Now().After(until) {
			r.leftovers = true
			break
		}
		name := names[(first+i)%len(names)]
		file, good := ParseFileName(name)
		switch {
		case !good:
		case file.Is == "member" && unlocked(r.file(name)):
			removeOurs(r.file(name))
		case file.Is == "new":
			if info, err := os.Lstat(r.file(name)); err == nil && time.Since(info.ModTime()) > 24*time.Hour {
				removeOurs(r.file(name))
			}
		case (file.Is == "entry" || file.Is == "socket") && !seen[file.ID]:
			seen[file.ID] = true
			if !r.alive(file.ID) {
				removed = r.bury(file.ID, names) || removed
			}
		}
	}
	if removed {
		r.now.Load().touch()
	}
}

// writeEntry lets an entry appear whole (R8).
func (r *roster) writeEntry(name string, text []byte) error {
	id, _, _ := strings.Cut(name, ".")
	scratch := r.file(id + ".new")
	file, err := openRegular(scratch, os.O_RDWR|os.O_CREATE|os.O_TRUNC, r.now.Load().rights.file())
	if err == nil {
		_, err = file.Write(text)
		file.Close()
	}
	if err == nil {
		err = os.Rename(scratch, r.file(name))
	}
	if err != nil {
		removeOurs(scratch)
	}
	return unavailable("write "+r.file(name), err)
}

// follow opens what is at the path now, if somebody has removed and perhaps recreated it (R38).
func (r *roster) follow() error {
	h, err := openHandle(r.path, r.byDefault)
	if err == nil {
		r.mu.Lock()
		r.former = append(r.former, r.now.Swap(h))
		r.mu.Unlock()
	}
	return err
}

// touchAll writes the token, then the former ones.
func (r *roster) touchAll() {
	r.now.Load().touch()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range r.former {
		h.touch()
	}
}

func (r *roster) close() {
	r.now.Load().close()
	for _, h := range r.former {
		h.close()
	}
}

// A member is the file that shows this process to people and tools (R29 to R31).
type member struct {
	id      string
	mu      sync.Mutex
	file    *os.File
	counts  [5]uint64
	origins []string
	number  uint64 // of the latest publication of live numbers (R54)
}

const (
	lostEvents = iota
	malformedFrames
	joinTimeouts
	sendTimeouts
)

func (m *member) text() []byte {
	text, _ := json.Marshal(map[string]any{"process": program(), "pid": os.Getpid(), "language": "go", "origins": m.origins})
	return text
}

func program() string { return strings.ToValidUTF8(filepath.Base(os.Args[0]), "\\x??") }

func (m *member) create(r *roster) error {
	scratch := r.file(m.id + ".new")
	file, err := openRegular(scratch, os.O_RDWR|os.O_CREATE|os.O_EXCL, r.now.Load().rights.file())
	if err != nil {
		return unavailable("write "+scratch, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	head := make([]byte, 128)
	for i, count := range m.counts {
		binary.LittleEndian.PutUint64(head[8*i:], count)
	}
	if err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX); err == nil {
		if _, err = file.Write(append(head, m.text()...)); err == nil {
			err = os.Rename(scratch, r.file(m.id+".member"))
		}
	}
	if err != nil {
		file.Close()
		removeOurs(scratch)
		return unavailable("write "+scratch, err)
	}
	if m.file != nil {
		m.file.Close()
	}
	m.file, m.number = file, 0
	return nil
}

func (m *member) add(counter int, n uint64) {
	if n == 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.counts[counter] += n
	m.writeNumber(8*counter, m.counts[counter])
}

func (m *member) writeNumber(at int, number uint64) error {
	var raw [8]byte
	binary.LittleEndian.PutUint64(raw[:], number)
	_, err := m.file.WriteAt(raw[:], int64(at))
	return err
}

func (m *member) newOrigin() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	origin := newID()
	m.origins = append(m.origins, origin)
	m.origins = m.origins[max(0, len(m.origins)-100):]
	m.file.WriteAt(m.text(), 128)
	return origin
}

// publish writes live numbers to the slot that nobody reads, and then says which slot is the latest.
func (m *member) publish(text []byte) {
	if len(text) > 262136 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	slot := int(65536 + (m.number+1)%2*262144)
	if m.writeNumber(slot, uint64(len(text))) != nil {
		return
	}
	if _, err := m.file.WriteAt(text, int64(slot+8)); err == nil && m.writeNumber(40, m.number+1) == nil {
		m.number++
	}
}

func (m *member) close(r *roster) {
	removeOurs(r.file(m.id + ".member"))
	m.file.Close()
}

// ---------------------------------------------------------------------------------------------------------
// Clocks, and what the kernel knows of sockets and processes

// clock returns the machine's CLOCK_MONOTONIC in microseconds, or -1 if it cannot be determined (W8).
func clock() int64 {
	offset := timeOffset()
	if offset == math.MinInt64 {
		return -1
	}
	return int64(C.zb_monotonic()) - offset
}

// timeOffset returns what the kernel adds to CLOCK_MONOTONIC in this process, in microseconds.
var timeOffset = sync.OnceValue(func() int64 {
	own, err := os.Readlink("/proc/self/ns/time")
	if err != nil {
		return 0 // no such namespaces here
	}
	if children, _ := os.Readlink("/proc/self/ns/time_for_children"); children != own {
		return math.MinInt64
	}
	text, _ := os.ReadFile("/proc/self/timens_offsets")
	for _, line := range strings.Split(string(text), "\n") {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "monotonic" {
			seconds, _ := strconv.ParseInt(fields[1], 10, 64)
			nanoseconds, _ := strconv.ParseInt(fields[2], 10, 64)
			return seconds*1000000 + nanoseconds/1000
		}
	}
	return math.MinInt64
})

// connections calls visit for each unix socket of this process that is connected to an ingress.
func connections(visit func(fd int, id string)) {
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return
	}
	for _, name := range names {
		fd, err := strconv.Atoi(name.Name())
		if err != nil {
			continue
		}
		peer, err := syscall.Getpeername(fd)
		if address, local := peer.(*syscall.SockaddrUnix); err == nil && local {
			if m := socketName.FindStringSubmatch(filepath.Base(address.Name)); m != nil {
				visit(fd, m[1])
			}
		}
	}
}

// unread returns how many bytes the peer of a socket has not read.
func unread(fd int) int {
	var pending int32
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&pending))); errno != 0 {
		return 0
	}
	return int(pending)
}

// checkDescriptors refuses to go on close to the limit, where libzmq would abort the process.
func checkDescriptors() error {
	var limit syscall.Rlimit
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil || syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil || uint64(len(names)+32) <= limit.Cur {
		return nil
	}
	return &Error{
		Kind: Unavailable, Retryable: true,
		Message: fmt.Sprintf("%d of %d file descriptors are in use, too many to use a bus: raise the limit (ulimit -n) or close some", len(names), limit.Cur),
	}
}

// An ioThread is the thread in which libzmq writes. If it sleeps, it has written all that there was room for.
type ioThread struct {
	prefix string
	mu     sync.Mutex
	status string // the path of its status in /proc
}

// asleep returns how often the thread has fallen asleep, or "" if it does not sleep now.
func (t *ioThread) asleep() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.status == "" {
		tasks, _ := filepath.Glob("/proc/self/task/*/comm")
		for _, path := range tasks {
			if comm, _ := os.ReadFile(path); strings.HasPrefix(string(comm), t.prefix) {
				t.status = filepath.Dir(path) + "/status"
			}
		}
	}
	text, _ := os.ReadFile(t.status)
	if !bytes.Contains(text, []byte("State:\tS")) {
		return ""
	}
	_, after, _ := bytes.Cut(text, []byte("\nvoluntary_ctxt_switches:\t"))
	count, _, _ := bytes.Cut(after, []byte("\n"))
	return string(count)
}

// A processState is what the kernel shows of another process (R40).
type processState struct {
	at             time.Time
	ran            int64 // microseconds on a CPU
	ready, stopped bool
}

func stateOf(pid int) (s processState, visible bool) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	s = processState{at: time.Now(), ran: int64(C.zb_cpu(C.int(pid))), stopped: true}
	for _, path := range threads {
		text, _ := os.ReadFile(path)
		if i := bytes.LastIndexByte(text, ')'); i >= 0 && i+2 < len(text) {
			state := text[i+2]
			s.ready = s.ready || state == 'R' || state == 'D'
			s.stopped = s.stopped && strings.IndexByte("TtXZ", state) >= 0
			visible = true
		}
	}
	return s, visible && err == nil && s.ran >= 0
}

// waitsForCPU reports whether a process had work to do since, and did not get the CPU for it.
func (s processState) waitsForCPU(before processState) bool {
	return s.ready && s.ran-before.ran < s.at.Sub(before.at).Microseconds()*8/10
}

// askListener connects to an ingress; it returns its process, 0 if unknown, and whether it greets if asked to.
func askListener(path string, greeting time.Duration) (pid int, greets bool) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return 0, true
	}
	defer syscall.Close(fd)
	if syscall.Connect(fd, &syscall.SockaddrUnix{Name: path}) != nil {
		return 0, true
	}
	if peer, err := syscall.GetsockoptUcred(fd, syscall.SOL_SOCKET, syscall.SO_PEERCRED); err == nil {
		pid = int(peer.Pid)
	}
	for until := time.Now().Add(greeting); time.Now().Before(until); time.Sleep(time.Millisecond) {
		var one [1]byte
		if n, err := syscall.Read(fd, one[:]); n > 0 {
			return pid, true
		} else if err != syscall.EAGAIN {
			return pid, err != nil
		}
	}
	return pid, false
}

// ---------------------------------------------------------------------------------------------------------
// Receiving: a subscription is an ingress of its own, one bound SUB, and a goroutine that always serves it

// An Overflow says what a full queue means.
type Overflow int

const (
	Drop  Overflow = drop  // events that have no room are lost, and counted
	Block Overflow = block // publishers wait; one slow subscriber holds up everybody who sends to it
)

// A SubscribeOption changes a subscription; see Bus.Subscribe.
type SubscribeOption func(*Subscription)

// WithKind selects only events whose kind matches this pattern; an empty one selects all, as "*" does.
func WithKind(pattern string) SubscribeOption {
	return func(s *Subscription) { s.kind = pattern }
}

// WithOverflow says what happens when the queue is full. The default is Drop.
func WithOverflow(overflow Overflow) SubscribeOption {
	return func(s *Subscription) { s.overflow = int(overflow) }
}

// WithCapacity says how many frames the queue holds: events, or whole batches. The default is that of the bus.
func WithCapacity(frames int) SubscribeOption {
	return func(s *Subscription) { s.capacity = frames }
}

// OnGap has each gap reported by the goroutine that receives, in its place: before the event that follows it.
func OnGap(report func(Gap)) SubscribeOption {
	return func(s *Subscription) { s.onGap = report }
}

// A Subscription receives events. Close it once you have stopped reading: it keeps its queue and, with Block,
// stalls publishers.
type Subscription struct {
	bus                *Bus
	number             int
	system, kind       string
	overflow, capacity int
	onGap              func(Gap)

	id       string
	entry    string // the name of its entry
	socket   identity
	reader   *C.zb_reader // used by the goroutine `run` alone, once that has started
	decoder  *Decoder     // likewise, once `ready` is closed
	ready    chan struct{}
	commands chan func()
	stop     chan struct{}
	stopOnce sync.Once
	done     chan struct{} // `run` has ended: no more events come

	mu        sync.Mutex
	gone      bool // whether the reader is closed
	queue     []item
	head      int // of the queue
	frames    int // in the queue
	bytes     int
	gapsKept  int
	waiting   int
	wake      chan struct{} // tells one waiting receiver of events
	full      bool          // whether `run` waits for room
	room      chan struct{}
	received  uint64
	lost      uint64
	malformed uint64
}

// An item of a queue is a frame, or a gap.
type item struct {
	evt   Event
	rest  []Event // the other events of a batch
	gap   *Gap
	bytes int
}

const (
	leastHWM      = 1000 // frames that wait in a socket before the goroutine takes them
	blockHWM      = 1000
	capacityBytes = 64 << 20
	mostGaps      = 1000
	servePause    = 2 * time.Millisecond
)

// Receive returns the next event. It waits for one until ctx ends; with a ctx that has ended it returns what
// has arrived already. Several goroutines may share a subscription: each event goes to one of them.
//
// Its errors are of kind Timeout (the deadline of ctx; retryable, nothing is lost), and Canceled: ctx was
// canceled, or the subscription or its bus is closed and everything that had arrived was received.
func (s *Subscription) Receive(ctx context.Context) (Event, error) {
	for {
		s.mu.Lock()
		evt, gap, good := s.pop()
		if gap == nil && !good {
			s.waiting++
			s.mu.Unlock()
			if err := s.await(ctx); err != nil {
				return Event{}, err
			}
			continue
		}
		if s.waiting > 0 && s.head < len(s.queue) {
			signal(s.wake)
		}
		s.mu.Unlock()
		if good {
			return evt, nil
		}
		s.onGap(*gap)
	}
}

// await waits until there may be something in the queue.
func (s *Subscription) await(ctx context.Context) error {
	defer func() {
		s.mu.Lock()
		s.waiting--
		s.mu.Unlock()
	}()
	select {
	case <-s.wake:
		return nil
	default:
	}
	select {
	case <-s.wake:
		return nil
	case <-ctx.Done():
		return ended(ctx, "no event arrived")
	case <-s.done:
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.head < len(s.queue) {
			return nil
		}
		return canceled("the subscription")
	}
}

func signal(to chan struct{}) {
	select {
	case to <- struct{}{}:
	default:
	}
}

// Events returns an iterator over the events, until ctx ends or the subscription is closed.
func (s *Subscription) Events(ctx context.Context) iter.Seq[Event] {
	return func(yield func(Event) bool) {
		for {
			evt, err := s.Receive(ctx)
			if err != nil || !yield(evt) {
				return
			}
		}
	}
}

// Received returns how many events Receive has returned.
func (s *Subscription) Received() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.received
}

// Lost returns how many events were lost so far: those that a full queue had no room for, here or at a
// publisher, and those that a broken connection took.
func (s *Subscription) Lost() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost
}

// Malformed returns how many frames arrived that were none. Their sender has a bug.
func (s *Subscription) Malformed() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.malformed
}

// Close leaves the bus. What has arrived can still be received; then Receive returns Canceled. Closing twice
// is fine.
func (s *Subscription) Close() error {
	s.bus.leave(s)
	s.end()
	return nil
}

// end stops the goroutine, and waits for it.
func (s *Subscription) end() {
	s.stopOnce.Do(func() {
		close(s.stop)
		s.wakeReader()
	})
	<-s.done
}

func (s *Subscription) wakeReader() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.gone {
		C.zb_wake(s.reader.wake)
	}
}

// do has the goroutine call a function, and waits for that.
func (s *Subscription) do(call func()) {
	finished := make(chan struct{})
	select {
	case s.commands <- func() { call(); close(finished) }:
		s.wakeReader()
	case <-s.done:
		return
	}
	select {
	case <-finished:
	case <-s.done:
	}
}

// pop takes the next event or gap out of the queue. The lock is held.
func (s *Subscription) pop() (evt Event, gap *Gap, good bool) {
	if s.head == len(s.queue) {
		return
	}
	first := &s.queue[s.head]
	if first.gap != nil {
		s.gapsKept--
		gap = first.gap
		s.advance()
		return evt, gap, false
	}
	s.received++
	evt = first.evt
	if len(first.rest) > 0 {
		first.evt, first.rest = first.rest[0], first.rest[1:]
		return evt, nil, true
	}
	s.frames--
	s.bytes -= first.bytes
	s.advance()
	if s.full && s.frames <= s.capacity/2 {
		s.full = false
		signal(s.room)
	}
	return evt, nil, true
}

// advance removes the first item of the queue.
func (s *Subscription) advance() {
	s.queue[s.head] = item{}
	if s.head++; s.head == len(s.queue) {
		s.queue, s.head = s.queue[:0], 0
	} else if s.head >= 1024 && 2*s.head >= len(s.queue) {
		kept := copy(s.queue, s.queue[s.head:])
		clear(s.queue[kept:])
		s.queue, s.head = s.queue[:kept], 0
	}
}

// run takes what arrives at the socket until the subscription ends. While it waits for something else, it
// keeps serving the socket: only then can publishers join (R15).
func (s *Subscription) run() {
	defer close(s.done)
	s.serveUntil(s.ready)
	var items []item
	for s.running() {
		rc := C.zb_read(s.reader, -1)
		if rc < 0 {
			if rc != -C.ETERM {
				slog.Error("zbus: a subscription has ended", "reason", syscall.Errno(-rc))
			}
			break
		}
		items = s.decode(items[:0])
		s.push(items, true)
		s.runCommands()
	}
	for C.zb_read(s.reader, 0) == 0 && s.reader.count > 0 {
		s.push(s.decode(items[:0]), false) // what had arrived
	}
	s.mu.Lock()
	s.gone = true
	s.mu.Unlock()
	C.zb_close(s.reader)
}

func (s *Subscription) running() bool {
	select {
	case <-s.stop:
		return false
	default:
		return true
	}
}

func (s *Subscription) runCommands() {
	for {
		select {
		case command := <-s.commands:
			command()
		default:
			return
		}
	}
}

func (s *Subscription) serveUntil(what <-chan struct{}) {
	pause := time.NewTicker(servePause)
	defer pause.Stop()
	for {
		C.zb_serve(s.reader.socket)
		select {
		case <-what:
			return
		case <-s.stop:
			return
		case command := <-s.commands:
			command()
		case <-pause.C:
		}
	}
}

// decode turns the frames that were read into items.
func (s *Subscription) decode(items []item) []item {
	count := int(s.reader.count)
	if count == 0 {
		return items
	}
	all := unsafe.Slice((*byte)(s.reader.bytes), int(s.reader.end[count-1]))
	start := 0
	for i := range count {
		end := int(s.reader.end[i])
		raw := all[start:end]
		start = end
		if len(raw) > 0 && raw[0] == control {
			continue
		}
		events, gaps := s.decoder.Decode(bytes.Clone(raw))
		for _, gap := range gaps {
			items = append(items, item{gap: &gap})
		}
		switch len(events) {
		case 0:
		case 1:
			items = append(items, item{evt: events[0], bytes: len(raw)})
		default:
			items = append(items, item{evt: events[0], rest: slices.Clone(events[1:]), bytes: len(raw)})
		}
	}
	s.reader.count = 0
	return items
}

// push queues items. What has no room is counted, or waits for room, if it `may` wait.
func (s *Subscription) push(items []item, may bool) {
	s.mu.Lock()
	lost, malformed := s.decoder.Lost, s.decoder.Malformed
	newlyLost, newlyMalformed := lost, malformed-s.malformed
	s.malformed = malformed
	s.decoder.Lost = 0
	for i := range items {
		it := &items[i]
		if it.gap != nil {
			s.pushGap(*it.gap)
			continue
		}
		for s.overflow == block && may && s.frames > 0 && s.isFull(it) {
			s.full = true
			s.publish()
			s.mu.Unlock()
			s.serveUntil(s.room)
			s.mu.Lock()
			may = s.running()
		}
		if s.overflow == drop && s.frames > 0 && s.isFull(it) {
			n := uint64(1 + len(it.rest))
			newlyLost += n
			if it.evt.Seq > 0 {
				s.pushGap(Gap{it.evt.Origin, it.evt.System, it.evt.Kind, it.evt.Seq, it.evt.Seq + n - 1})
			}
			continue
		}
		s.frames++
		s.bytes += it.bytes
		s.queue = append(s.queue, *it)
	}
	s.lost += newlyLost
	s.publish()
	s.mu.Unlock()
	s.bus.member.add(lostEvents, newlyLost)
	s.bus.member.add(malformedFrames, newlyMalformed)
}

func (s *Subscription) isFull(it *item) bool {
	return s.frames >= s.capacity || s.bytes+it.bytes > capacityBytes
}

func (s *Subscription) publish() {
	if s.waiting > 0 && s.head < len(s.queue) {
		signal(s.wake)
	}
}

// pushGap queues a gap, or makes the one at the end longer.
func (s *Subscription) pushGap(gap Gap) {
	if s.onGap == nil {
		return
	}
	if len(s.queue) > s.head {
		if last := s.queue[len(s.queue)-1].gap; last != nil && last.Last+1 == gap.First &&
			last.Origin == gap.Origin && last.Kind == gap.Kind && last.System == gap.System {
			last.Last = gap.Last
			return
		}
	}
	if s.gapsKept < mostGaps {
		s.gapsKept++
		s.queue = append(s.queue, item{gap: &gap})
	}
}

// listen creates the socket of a subscription, bound as <id>.new: nobody can see it yet.
func (s *Subscription) listen(prefixes []string) error {
	b := s.bus
	s.reader = (*C.zb_reader)(C.calloc(1, C.sizeof_zb_reader))
	s.reader.wake = C.eventfd(0, C.EFD_CLOEXEC|C.EFD_NONBLOCK)
	s.reader.socket = C.zmq_socket(b.context, C.ZMQ_SUB)
	if s.reader.socket == nil || s.reader.wake < 0 {
		C.zb_close(s.reader)
		return &Error{Kind: Unavailable, Retryable: true, Message: "libzmq has no more sockets, or the process no more descriptors: close some subscriptions"}
	}
	hwm := max(s.capacity, leastHWM)
	if s.overflow == block {
		hwm = min(s.capacity, blockHWM)
	}
	C.zb_set(s.reader.socket, C.ZMQ_LINGER, 0)
	C.zb_set(s.reader.socket, C.ZMQ_SNDHWM, 0)
	C.zb_set(s.reader.socket, C.ZMQ_RCVHWM, C.int(hwm))
	maximum := int64(b.options.MaxEventBytes)
	C.zmq_setsockopt(s.reader.socket, C.ZMQ_MAXMSGSIZE, unsafe.Pointer(&maximum), 8)
	C.zb_set(s.reader.socket, C.ZMQ_BACKLOG, 4096)
	for _, prefix := range append(prefixes, "\xff"+s.id+".1") {
		C.zb_subscribe(s.reader.socket, unsafe.Pointer(unsafe.StringData(prefix)), C.size_t(len(prefix)))
	}
	if err := s.bind(); err != nil {
		C.zb_close(s.reader)
		return err
	}
	return nil
}

// bind binds the socket, and gives it its name once it listens (R9).
func (s *Subscription) bind() error {
	r := s.bus.roster
	scratch := r.file(s.id + ".new")
	endpoint := C.CString("ipc://" + scratch)
	defer C.free(unsafe.Pointer(endpoint))
	if rc := C.zb_bind(s.reader.socket, endpoint); rc < 0 {
		return unavailable("listen at "+scratch, syscall.Errno(-rc))
	}
	if rights := r.now.Load().rights; rights.group >= 0 {
		os.Chmod(scratch, rights.file())
	}
	if err := os.Rename(scratch, r.file(s.id+".sock")); err != nil {
		removeOurs(scratch)
		return unavailable("name the socket", err)
	}
	s.socket = identify(r.file(s.id + ".sock"))
	return nil
}

func (s *Subscription) describe() []byte {
	kind := s.kind
	if kind == "" {
		kind = "*"
	}
	text, _ := json.Marshal(map[string]any{
		"process": program(), "pid": os.Getpid(), "language": "go", "member": s.bus.member.id,
		"patterns": [][]string{{s.system, kind, overflows[s.overflow]}}, "channels": 1,
	})
	return text
}

// ---------------------------------------------------------------------------------------------------------
// Sending: one XPUB for each overflow policy in use, a link to each ingress, numbers, marks

// A publisher sends for one bus. Everything in it is used under its lock.
type publisher struct {
	mu      sync.Mutex
	bus     *Bus
	closed  bool
	io      ioThread
	sockets [2]unsafe.Pointer // XPUBs by overflow policy; nil until there is such an ingress
	count   [2]int            // links
	links   map[string]*link

	known, listed       uint64 // tokens: at which the links are settled, and of the latest listing
	isKnown, isListed   bool
	settled             int64 // the time of W37
	generation          uint64
	answered, cpuShort  time.Time // when a joiner last answered, or was seen to wait for a CPU
	shortUntil          time.Time // until when joiners that do not answer get less time (R41)
	joins               uint64
	origin              string
	topics              map[topicKey]*topic
	pastEvents, pastLen uint64 // sent under former origins
	pastTopics          int
	frame               []byte
	firstFrame          bool
	firstWrites         int
	nextWrite           time.Time
	backlog, nextCheck  int // bytes of large frames since all was written, and how many are looked at (R44)

	// Marks (R57, R58).
	owed, doubtful  markSet
	full            map[string]bool // links that a frame may have been dropped for
	returned        [2]bool         // joiners that were given up have answered, by overflow policy
	telling         bool            // while marks go to `block` joiners that are back
	sends, lookedAt uint64
	watching        bool
	look            *time.Timer
	pause           time.Duration
	tries           int
	checkReturned   time.Time
}

type topicKey struct{ system, kind string }

type topic struct {
	system, kind     string
	origin           string
	born             int64
	seq, first, told uint64 // the latest number, the first with this stamp, the latest that a mark told of
	bytes            uint64
	generation       uint64
	announced        int    // bytes of large frames that a notice has told of
	head, stamp      []byte // system NUL kind NUL; .born.settled.first.
}

func (t *topic) unmarked() bool { return t.first > 0 && t.first <= t.seq && t.told != t.seq }

// A link is the connection to one ingress.
type link struct {
	id, path     string
	overflow     int
	epoch, shown uint64
	missed       uint64 // the epoch that was given up, until it is shown
	handle       *handle
	cut          []int // duplicates of its connection, if it was disconnected because it reads nothing
	wasRead      bool  // whether they had been read at the last look

	begun, since, due time.Time // of the wait for its epoch; when to check it next
	pause             time.Duration
	pid               int
	peer              processState
	checks, busy      int
	stopped           bool
}

func (l *link) awaited() bool { return l.shown < l.epoch && l.missed < l.epoch && l.cut == nil }

func (l *link) expect(epoch uint64, now time.Time) {
	l.epoch, l.begun, l.pause, l.stopped = epoch, now, 5*time.Millisecond, false
	l.due = now.Add(l.pause)
	l.since, l.checks, l.busy = now, 0, 0
}

const (
	patience      = 20 * time.Millisecond // how long an attempt to send may hold the lock
	restPause     = 200 * time.Millisecond
	writePatience = 250 * time.Millisecond // how long a first event may take to be written
)

// send numbers and sends events of one topic. `data` is the data field. This is the fast path: the topic was
// used before, so its names are good, and the roster has not changed.
func (p *publisher) send(ctx context.Context, system, kind, path string, data []byte, events uint64) error {
	if ctx.Err() != nil {
		return ended(ctx, "the event was not sent")
	}
	p.mu.Lock()
	if p.isKnown && !p.closed && p.bus.roster.now.Load().read() == p.known {
		if t := p.topics[topicKey{system, kind}]; t != nil && t.generation == p.generation {
			if sent, err := p.emit(t, path, data, events); sent || err != nil {
				p.mu.Unlock()
				return err
			}
		}
	}
	p.mu.Unlock()
	if err := CheckTopic(system, kind); err != nil {
		return err
	}
	return p.sendSlowly(ctx, system, kind, path, data, events)
}

// sendSlowly tries until the frame is sent or time is over. Without a deadline of its own, time does not count
// while joiners answer, or wait for a CPU (R43).
func (p *publisher) sendSlowly(ctx context.Context, system, kind, path string, data []byte, events uint64) error {
	begun, timeout := time.Now(), p.bus.options.SendTimeout
	_, own := ctx.Deadline()
	for {
		if ctx.Err() != nil {
			err := ended(ctx, p.obstacle())
			if errors.Is(err, Timeout) {
				p.bus.member.add(sendTimeouts, 1)
			}
			return err
		}
		sent, err := p.attempt(system, kind, path, data, events)
		if sent || err != nil {
			p.awaitFirstWrite()
			return err
		}
		p.mu.Lock()
		since := begun
		for _, at := range []time.Time{p.answered, p.cpuShort} {
			if at.After(since) && at.Before(begun.Add(30*timeout)) {
				since = at
			}
		}
		p.mu.Unlock()
		if !own && time.Since(since) >= timeout {
			p.bus.member.add(sendTimeouts, 1)
			return &Error{Kind: Timeout, Retryable: true, Message: fmt.Sprintf("%s within %v: the event was sent to nobody", p.obstacle(), timeout)}
		}
		runtime.Gosched() // others want the lock, too
	}
}

// awaitFirstWrite waits until libzmq has written, if a frame was the first of its topic, or since a settling. So
// a program that sends once and ends, in whatever way, has sent. That costs 0.1 ms, and is done 64 times, and
// then for a 20th of the time.
func (p *publisher) awaitFirstWrite() {
	begun := time.Now()
	p.mu.Lock()
	due := p.firstFrame && (p.firstWrites < 64 || begun.After(p.nextWrite))
	p.firstFrame = false
	if due {
		p.firstWrites++
	}
	p.mu.Unlock()
	if !due {
		return
	}
	for pause := 50 * time.Microsecond; p.io.asleep() == "" && time.Since(begun) < writePatience; pause = min(2*pause, 5*time.Millisecond) {
		time.Sleep(pause)
	}
	now := time.Now()
	p.mu.Lock()
	p.nextWrite = now.Add(20 * now.Sub(begun))
	p.mu.Unlock()
}

// obstacle says what a send waited for.
func (p *publisher) obstacle() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.links {
		if l.awaited() {
			return fmt.Sprintf("subscriber %s did not finish joining", l.id)
		}
	}
	return "a full 'block' subscriber made no room"
}

// attempt tries once, for a moment; it reports whether the frame was sent.
func (p *publisher) attempt(system, kind, path string, data []byte, events uint64) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false, canceled("the bus")
	}
	key := topicKey{system, kind}
	t := p.topics[key]
	var born int64
	if t == nil {
		born = clock() // before the token is compared (W8)
	}
	if !p.isKnown || p.bus.roster.token() != p.known {
		if settled, err := p.settle(patience); !settled {
			return false, err
		}
	}
	if t == nil {
		p.makeRoom()
		t = &topic{system: system, kind: kind, origin: p.origin, born: born, head: appendTopic(nil, system, kind)}
		p.topics[key] = t
	}
	if t.generation != p.generation {
		p.renew(t)
	}
	return p.emit(t, path, data, events)
}

// makeRoom begins a new origin if this one has as many topics as it may (W35), and sends a mark that is owed.
func (p *publisher) makeRoom() {
	if p.origin != "" && len(p.topics) < maxTopics {
		if len(p.owed.list) > 0 {
			p.sendOwed(1)
		}
		return
	}
	for _, t := range p.topics {
		if t.unmarked() {
			p.owed.add(t)
		}
		p.pastEvents += t.seq
		p.pastLen += t.bytes
		p.pastTopics++
	}
	p.origin, p.topics = p.bus.member.newOrigin(), map[topicKey]*topic{}
}

// renew gives a topic the stamp of the latest settling, after a twin has told of what had the former (W48).
func (p *publisher) renew(t *topic) {
	if t.unmarked() {
		p.force(append([]byte("\xff#"), p.mark(t, t.stamp)...))
		if p.inDoubt() {
			p.doubtful.add(t)
		}
		t.told = t.seq
	}
	t.first, t.generation, p.firstFrame = t.seq+1, p.generation, true
	t.stamp = append([]byte(nil), '.')
	if t.born >= 0 && p.settled >= 0 {
		t.stamp = fmt.Appendf(nil, ".%d.%d.%d.", t.born, p.settled, t.first)
	} else {
		t.stamp = []byte("....")
	}
}

// appendFrame makes a frame of a topic.
func appendFrame(to []byte, t *topic, stamp []byte, path string, data []byte) []byte {
	to = append(append(append(to, t.head...), path...), 0)
	to = append(append(to, t.origin...), '.')
	to = append(strconv.AppendUint(to, t.seq+1, 10), stamp...)
	to = append(strconv.AppendInt(to, time.Now().UnixMicro(), 10), 0)
	return append(to, data...)
}

func (p *publisher) mark(t *topic, stamp []byte) []byte {
	return appendFrame(nil, t, stamp, "", []byte("[]"))
}

// emit sends a frame to `block` ingresses first: what they refuse, nobody gets, and it takes no number (R24).
func (p *publisher) emit(t *topic, path string, data []byte, events uint64) (bool, error) {
	p.frame = appendFrame(p.frame[:0], t, t.stamp, path, data)
	size := len(p.frame)
	if most := p.bus.options.MaxEventBytes; size > most {
		return false, invalid("the event has %d bytes of at most %d (max_event_bytes): send less, or a reference to it", size, most)
	}
	if size > largeBytes && !p.admit(t, size) {
		return false, nil
	}
	if p.count[block] > 0 {
		if rc := put(p.sockets[block], p.frame, 0); rc == -C.EAGAIN {
			return false, nil
		} else if rc < 0 {
			return false, unavailable("send", syscall.Errno(-rc))
		}
	}
	if p.count[drop] > 0 && put(p.sockets[drop], p.frame, C.ZMQ_DONTWAIT) < 0 {
		p.force(p.frame)
	}
	t.seq += events
	t.bytes += uint64(size)
	p.sends++
	if size > largeBytes {
		p.weigh(t, size)
	}
	if !p.watching {
		p.watch(restPause)
	}
	return true, nil
}

const largeBytes = 1024 // W42

// admit announces a large frame (W42), after it has made sure that not too many bytes wait (R44). It reports
// whether the frame may be sent now.
func (p *publisher) admit(t *topic, size int) bool {
	if p.backlog > p.nextCheck && p.count[drop] > 0 && p.dropStuckLinks() {
		return false
	}
	if t.announced >= size {
		return true
	}
	step := max(size, 1<<18)
	notice := fmt.Appendf(nil, "\xff!%s%d", t.head, step)
	if p.count[block] > 0 && put(p.sockets[block], notice, 0) < 0 {
		return false
	}
	p.force(notice)
	t.announced += step
	return true
}

// weigh counts a large frame that was sent, and has it take places in `block` queues like its size (W43).
func (p *publisher) weigh(t *topic, size int) {
	t.announced -= size
	p.backlog += size
	if size > 1<<20 {
		p.frame = nil
	}
	if p.count[block] == 0 {
		return
	}
	places := min(250, size/(capacityBytes/min(p.bus.options.Capacity, blockHWM)))
	for _, l := range p.links {
		if places > 0 && l.overflow == block && l.shown > 0 {
			filler := fmt.Appendf(nil, "\xff%s.%d~", l.id, l.shown)
			for range places {
				put(p.sockets[block], filler, C.ZMQ_DONTWAIT)
			}
		}
	}
}

// dropStuckLinks waits a moment until everything is written. It disconnects a link that takes nothing meanwhile
// if its process is stopped, or if as many bytes wait as may: that frees them. It reports whether one was.
func (p *publisher) dropStuckLinks() (gone bool) {
	var full map[string]bool
	for until := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		before, now := p.io.asleep(), map[string]bool{}
		connections(func(fd int, id string) {
			if l := p.links[id]; l != nil && l.overflow == drop && l.cut == nil && (full == nil || full[id]) && C.zb_writable(C.int(fd)) == 0 {
				now[id] = true
			}
		})
		if full = now; len(full) == 0 && before != "" && p.io.asleep() == before {
			p.backlog, p.nextCheck = 0, capacityBytes/2
			return false
		}
		if time.Now().After(until) {
			break
		}
	}
	for id := range full {
		l := p.links[id]
		if l.pid == 0 {
			l.pid, _ = askListener(l.path, 0)
		}
		state, visible := stateOf(l.pid)
		if p.backlog >= capacityBytes || visible && state.stopped {
			p.disconnect(l)
			gone = true
		}
	}
	if p.nextCheck = p.backlog + capacityBytes/16; gone || len(full) == 0 {
		p.backlog, p.nextCheck = 0, capacityBytes/2
	}
	return gone
}

// disconnect lets go of a link that reads nothing. It counts as given up until it is back (R44, R45).
func (p *publisher) disconnect(l *link) {
	slog.Warn("zbus: a subscriber takes nothing, and too many bytes wait for it: what it misses is counted", "ingress", l.id)
	l.cut, l.wasRead = append(duplicate(map[string]*link{l.id: l}), -1), false
	l.missed, l.shown = max(l.missed, l.epoch), 0
	endpoint := C.CString("ipc://" + l.path)
	defer C.free(unsafe.Pointer(endpoint))
	C.zmq_disconnect(p.sockets[drop], endpoint)
	p.count[drop]--
	delete(p.full, l.id)
	p.isKnown = false
	for _, t := range p.topics {
		t.told = Untold // marks that waited for it are gone, too
	}
}

// reconnect connects the links again that have read everything of their former connection.
func (p *publisher) reconnect() {
	for _, l := range p.links {
		if l.cut == nil {
			continue
		}
		if slices.ContainsFunc(l.cut, func(fd int) bool { return unread(fd) > 0 }) {
			l.wasRead = false
		} else if !l.wasRead { // once more, so that the peer has passed on what it has read
			l.wasRead = true
		} else if p.dial(l) == nil {
			l.release()
		}
	}
}

// release closes what kept the connection of a link open.
func (l *link) release() {
	for _, fd := range l.cut {
		if fd >= 0 {
			syscall.Close(fd)
		}
	}
	l.cut = nil
}

// duplicate returns duplicates of the connections to these ingresses.
func duplicate(links map[string]*link) (held []int) {
	connections(func(fd int, id string) {
		if links[id] != nil {
			if twin, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_DUPFD_CLOEXEC, 0); errno == 0 {
				held = append(held, int(twin))
			}
		}
	})
	return held
}

func put(socket unsafe.Pointer, frame []byte, flags C.int) C.int {
	return C.zb_send(socket, unsafe.Pointer(unsafe.SliceData(frame)), C.size_t(len(frame)), flags)
}

// putStrictly sends a frame to all `drop` links that libzmq uses, or to none; it reports which.
func (p *publisher) putStrictly(frame []byte) bool {
	if p.count[drop] == 0 || put(p.sockets[drop], frame, C.ZMQ_DONTWAIT) == 0 {
		return true
	}
	C.zb_serve(p.sockets[drop]) // there may be news of room
	return put(p.sockets[drop], frame, C.ZMQ_DONTWAIT) == 0
}

// force sends a frame that a `drop` link may have no room for; then nobody knows what else that link misses,
// until its peer has read everything (R57).
func (p *publisher) force(frame []byte) {
	if p.putStrictly(frame) {
		return
	}
	for id, l := range p.links {
		if l.overflow == drop && l.cut == nil {
			p.full[id] = true
		}
	}
	C.zb_set(p.sockets[drop], C.ZMQ_XPUB_NODROP, 0)
	put(p.sockets[drop], frame, C.ZMQ_DONTWAIT)
	C.zb_set(p.sockets[drop], C.ZMQ_XPUB_NODROP, 1)
}

// settle brings the links up to date with the roster (R20). It reports whether that is done.
func (p *publisher) settle(patience time.Duration) (bool, error) {
	begun, overslept := time.Now(), false
	for now := begun; ; {
		asof, token := clock(), p.bus.roster.token()
		if !p.isListed || token != p.listed {
			if err := p.list(now); err != nil {
				return false, err
			}
			p.listed, p.isListed = token, true
		}
		p.readSubscriptions(now)
		p.checkAwaited(now, overslept)
		if !p.waits() {
			if p.isListed && p.bus.roster.token() == token {
				p.settled, p.known, p.isKnown = asof, token, true
				p.generation++
				p.tellReturned()
				return true, nil
			}
			continue
		}
		if now.Sub(begun) >= patience {
			return false, nil
		}
		C.zb_wait(p.sockets[drop], p.sockets[block], 5)
		overslept = time.Since(now) > 15*time.Millisecond
		now = time.Now()
	}
}

func (p *publisher) waits() bool {
	for _, l := range p.links {
		if l.awaited() {
			return true
		}
	}
	return false
}

// list connects the ingresses that are new on the roster, and lets go of those that are gone.
func (p *publisher) list(now time.Time) error {
	r := p.bus.roster
	entries, err := r.entries()
	if err != nil {
		return err
	}
	here := r.now.Load()
	for id, l := range p.links {
		if _, listed := entries[id]; listed {
			l.handle = here
		} else if l.handle == here || l.shown == 0 { // otherwise it has yet to move to this directory (R39)
			p.unlink(l)
		}
	}
	removed := false
	for id, entry := range entries {
		if l := p.links[id]; l != nil {
			if entry.Epoch > l.epoch {
				l.expect(entry.Epoch, now)
			}
		} else if r.alive(id) {
			if err := p.connect(entry, now); err != nil {
				return err
			}
		} else {
			names, _ := r.list()
			removed = r.bury(id, names) || removed
		}
	}
	if removed {
		here.touch()
	}
	return nil
}

func (p *publisher) connect(entry FileName, now time.Time) error {
	overflow := slices.Index(overflows[:], entry.Overflow)
	if p.sockets[overflow] == nil {
		socket := C.zmq_socket(p.bus.context, C.ZMQ_XPUB)
		if socket == nil {
			return &Error{Kind: Unavailable, Retryable: true, Message: "libzmq has no more sockets, or the process no more descriptors"}
		}
		hwm, wait := p.bus.options.Capacity, 0
		if overflow == block {
			hwm, wait = min(hwm, blockHWM), int(patience.Milliseconds())
		}
		C.zb_set(socket, C.ZMQ_XPUB_NODROP, 1)
		C.zb_set(socket, C.ZMQ_IMMEDIATE, 1)
		C.zb_set(socket, C.ZMQ_SNDHWM, C.int(hwm))
		C.zb_set(socket, C.ZMQ_SNDTIMEO, C.int(wait))
		C.zb_set(socket, C.ZMQ_RECONNECT_IVL_MAX, 5000)
		C.zb_set(socket, C.ZMQ_LINGER, 0)
		p.sockets[overflow] = socket
	}
	l := &link{id: entry.ID, path: p.bus.roster.file(entry.ID + ".sock"), overflow: overflow, handle: p.bus.roster.now.Load()}
	l.expect(entry.Epoch, now)
	err := p.dial(l)
	if err == nil {
		p.links[l.id] = l
	}
	return err
}

func (p *publisher) dial(l *link) error {
	endpoint := C.CString("ipc://" + l.path)
	defer C.free(unsafe.Pointer(endpoint))
	if rc := C.zb_connect(p.sockets[l.overflow], endpoint); rc < 0 {
		return unavailable("connect to "+l.path, syscall.Errno(-rc))
	}
	p.count[l.overflow]++
	return nil
}

func (p *publisher) unlink(l *link) {
	if l.cut == nil {
		endpoint := C.CString("ipc://" + l.path)
		defer C.free(unsafe.Pointer(endpoint))
		C.zmq_disconnect(p.sockets[l.overflow], endpoint)
		p.count[l.overflow]--
	}
	l.release()
	delete(p.links, l.id)
	delete(p.full, l.id)
}

// readSubscriptions reads what peers have subscribed to; only the sentinels matter here (W25).
func (p *publisher) readSubscriptions(now time.Time) {
	var buffer [64]byte
	for _, socket := range p.sockets {
		for socket != nil {
			n := int(C.zb_receive(socket, unsafe.Pointer(&buffer), C.size_t(len(buffer))))
			if n < 0 {
				break
			}
			if n < 2 || n > len(buffer) {
				continue
			}
			id, epoch, good := ParseSentinel(buffer[1:n])
			if l := p.links[id]; good && l != nil {
				p.note(l, buffer[0] == 1, epoch, now)
			}
		}
	}
}

func (p *publisher) note(l *link, added bool, epoch uint64, now time.Time) {
	if !added {
		if epoch == l.shown { // not an older one: the connection has ended
			l.shown = 0
			l.expect(l.epoch, now)
		}
		return
	}
	if epoch > l.shown {
		p.joins++
	}
	l.shown = max(l.shown, epoch)
	p.answered = now
	if l.missed > 0 {
		p.returned[l.overflow] = true
		if l.missed <= l.shown {
			l.missed = 0
		}
	}
}

// checkAwaited checks a few of the links that are awaited: the dead are buried, and those whose time is over
// are given up (R21, R22, R40).
func (p *publisher) checkAwaited(now time.Time, overslept bool) {
	checked := 0
	for id, l := range p.links {
		if !l.awaited() || now.Before(l.due) || checked >= 4 {
			continue
		}
		checked++
		if overslept {
			p.cpuShort = now
		}
		r := p.bus.roster
		if !r.alive(id) {
			names, _ := r.list()
			if r.bury(id, names) {
				r.now.Load().touch()
			}
			p.isListed = false // even if nothing could be removed
			continue
		}
		if !p.isOver(l, now, overslept) {
			continue
		}
		if l.overflow == block {
			if _, greets := askListener(l.path, 250*time.Millisecond); l.stopped || greets {
				l.expect(l.epoch, now) // it is full (R22)
				continue
			}
		}
		l.missed = l.epoch
		if now.After(p.shortUntil) {
			p.shortUntil = now.Add(time.Minute)
		}
		p.bus.member.add(joinTimeouts, 1)
		slog.Warn("zbus: a subscriber did not finish joining: sends no longer wait for it", "ingress", id, "after", now.Sub(l.begun).Round(time.Millisecond))
	}
}

// isOver reports whether a joiner has had its time. Slow is not stopped: while the machine is busy, the time
// begins again, up to thirty times.
func (p *publisher) isOver(l *link, now time.Time, overslept bool) bool {
	timeout := p.bus.options.JoinTimeout
	switch short := now.Before(p.shortUntil); {
	case l.overflow == block && short:
		timeout = min(timeout, p.bus.options.SendTimeout)
	case l.overflow == block:
		timeout = p.bus.options.SendTimeout
	case short:
		timeout = min(timeout, 50*time.Millisecond)
	}
	l.pause = min(2*l.pause, 50*time.Millisecond, max(5*time.Millisecond, timeout/10))
	l.due = now.Add(l.pause)
	if now.Sub(l.since) < timeout/2 {
		return false
	}
	before, wasStopped := l.peer, l.stopped
	if l.pid == 0 {
		l.pid, _ = askListener(l.path, 0)
	}
	visible := false
	if l.stopped = false; l.pid > 0 && l.pid != os.Getpid() {
		if l.peer, visible = stateOf(l.pid); visible {
			l.stopped = l.peer.stopped
		}
	}
	if overslept || visible && l.checks > 0 && l.peer.waitsForCPU(before) {
		l.busy++
	}
	l.checks++
	if wasStopped && !l.stopped {
		l.since, l.checks, l.busy = now, 0, 0
	}
	switch {
	case now.Sub(l.since) < timeout:
		return false
	case l.stopped || now.Sub(l.begun) >= 30*timeout:
		return true
	case l.checks < 5:
		return false
	case 3*l.busy <= l.checks:
		return true
	}
	p.cpuShort = now
	l.since, l.checks, l.busy = now.Add(-timeout/2), 0, 0
	return false
}

// A markSet holds what marks are about: topics, each with the stamp that its events had.
type markSet struct {
	list []markOf
	has  map[string]bool
}

type markOf struct {
	topic *topic
	stamp []byte
	key   string
}

func (m *markSet) add(t *topic) {
	m.put(markOf{t, t.stamp, t.origin + string(t.head) + string(t.stamp)})
}

func (m *markSet) put(mark markOf) {
	if m.has == nil {
		m.has = map[string]bool{}
	}
	if m.has[mark.key] {
		return
	}
	m.has[mark.key] = true
	if m.list = append(m.list, mark); len(m.list) > maxTopics {
		m.take()
	}
}

func (m *markSet) take() markOf {
	first := m.list[0]
	m.list[0] = markOf{}
	m.list = m.list[1:]
	delete(m.has, first.key)
	return first
}

func (p *publisher) inDoubt() bool { return len(p.full) > 0 || p.leftOut() }

func (p *publisher) leftOut() bool {
	for _, l := range p.links {
		if l.missed > 0 {
			return true
		}
	}
	return false
}

// watch has the publisher look after a pause whether it is at rest.
func (p *publisher) watch(pause time.Duration) {
	p.watching = true
	if p.look == nil {
		p.look = time.AfterFunc(pause, p.lookAround)
	} else {
		p.look.Reset(pause)
	}
}

// lookAround sends the marks that are due, if nothing was sent since the last look (W46, R58).
func (p *publisher) lookAround() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	idle := p.sends == p.lookedAt
	p.lookedAt = p.sends
	p.checkDoubt()
	if idle {
		p.oweUnmarked()
	} else {
		p.pause = restPause
	}
	switch {
	case !p.sendOwed(1000):
		p.watch(5 * time.Millisecond)
	case !idle:
		p.watch(restPause)
	case p.inDoubt():
		p.watch(p.pause)
		p.pause = min(2*p.pause, time.Second)
	default:
		p.doubtful = markSet{}
		p.watching = false
	}
}

func (p *publisher) oweUnmarked() {
	for _, t := range p.topics {
		if t.unmarked() {
			p.owed.add(t)
		}
	}
}

// checkDoubt looks for links that are back: they have answered after all, or have read everything.
func (p *publisher) checkDoubt() {
	if now := time.Now(); p.leftOut() && now.After(p.checkReturned) {
		p.checkReturned = now.Add(900 * time.Millisecond)
		p.readSubscriptions(now)
		p.reconnect()
		p.tellReturned()
	}
	if len(p.full) == 0 {
		return
	}
	before := p.io.asleep()
	empty := map[string]bool{}
	for id := range p.full {
		empty[id] = true
	}
	connections(func(fd int, id string) {
		if unread(fd) > 0 {
			delete(empty, id)
		}
	})
	if before == "" || p.io.asleep() != before || len(empty) == 0 {
		return
	}
	C.zb_serve(p.sockets[drop]) // only now does libzmq use those links again
	for id := range empty {
		delete(p.full, id)
	}
	p.oweAgain()
}

func (p *publisher) tellReturned() {
	if p.returned == [2]bool{} {
		return
	}
	p.telling = p.telling || p.returned[block]
	p.returned = [2]bool{}
	p.oweAgain()
	p.watch(5 * time.Millisecond)
}

func (p *publisher) oweAgain() {
	for _, mark := range p.doubtful.list {
		p.owed.put(mark)
	}
	p.doubtful = markSet{}
}

// sendOwed sends marks, so many at most, as far as there is room; it reports whether none is left.
func (p *publisher) sendOwed(most int) bool {
	for ; most > 0 && len(p.owed.list) > 0; most-- {
		mark := p.owed.list[0]
		frame := p.mark(mark.topic, mark.stamp)
		twin := append([]byte("\xff#"), frame...)
		if p.telling && p.count[block] > 0 {
			put(p.sockets[block], frame, C.ZMQ_DONTWAIT)
		}
		if !p.putStrictly(frame) {
			if p.tries++; p.tries < 10 {
				return false
			}
			p.force(frame)
		}
		p.tries = 0
		p.force(twin)
		p.owed.take()
		if p.inDoubt() {
			p.doubtful.put(mark)
		}
		if bytes.Equal(mark.stamp, mark.topic.stamp) {
			mark.topic.told = mark.topic.seq
		}
	}
	p.telling = p.telling && len(p.owed.list) > 0
	return len(p.owed.list) == 0
}

// refuse has every send from now on fail.
func (p *publisher) refuse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
}

// finish sends the last marks. While a link is full, it waits for that until the deadline (R59).
func (p *publisher) finish(deadline time.Time) {
	for done := false; !done; {
		p.mu.Lock()
		p.checkReturned = time.Time{}
		p.checkDoubt()
		p.oweUnmarked()
		done = p.sendOwed(maxTopics) && len(p.full) == 0
		p.mu.Unlock()
		if !done {
			if !time.Now().Before(deadline) {
				return
			}
			time.Sleep(2 * time.Millisecond)
		}
	}
}

// close closes the sockets. It returns duplicates of the connections, which keep them open: libzmq drops what
// the kernel still holds when a full reader sees the end of a connection (R25).
func (p *publisher) close(deadline time.Time) (held []int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.look != nil {
		p.look.Stop()
	}
	spoken := map[string]*link{}
	for id, l := range p.links {
		if l.release(); l.shown > 0 {
			spoken[id] = l
		}
	}
	held = duplicate(spoken)
	for i, socket := range p.sockets {
		if socket != nil {
			C.zb_set(socket, C.ZMQ_LINGER, C.int(max(0, time.Until(deadline).Milliseconds())))
			C.zmq_close(socket)
		}
		p.sockets[i], p.count[i] = nil, 0
	}
	p.links = map[string]*link{}
	return held
}

// ---------------------------------------------------------------------------------------------------------
// The bus

// Options are those of Open; a zero value is the default.
type Options struct {
	Bus           string        // the name of the bus: $ZBUS_BUS, or "default"
	Dir           string        // the root of all buses: $ZBUS_DIR, or the user's default
	Capacity      int           // frames that may wait in a subscription, and here for each subscriber: 65,536
	MaxEventBytes int           // the size of a frame, at least 276; all peers must agree: 16 MiB
	SendTimeout   time.Duration // how long a Send waits whose context has no deadline: 5 s
	JoinTimeout   time.Duration // how long a Send waits for a subscriber that does not finish joining: 1 s
	Linger        time.Duration // how long Close waits until others have read what was sent: 1 s; negative: not at all
}

func (o *Options) complete() error {
	if o.Bus == "" {
		o.Bus = os.Getenv("ZBUS_BUS")
	}
	if o.Bus == "" {
		o.Bus = "default"
	}
	for _, each := range []struct {
		value    *int
		standard int
	}{{&o.Capacity, 65536}, {&o.MaxEventBytes, 16 << 20}} {
		if *each.value == 0 {
			*each.value = each.standard
		}
	}
	for _, each := range []struct {
		value    *time.Duration
		standard time.Duration
	}{{&o.SendTimeout, 5 * time.Second}, {&o.JoinTimeout, time.Second}, {&o.Linger, time.Second}} {
		if *each.value == 0 {
			*each.value = each.standard
		}
	}
	if o.Capacity < 1 || o.Capacity > math.MaxInt32 {
		return invalid("capacity is %d: give a number from 1 to %d", o.Capacity, math.MaxInt32)
	}
	if o.MaxEventBytes < leastMaximum || o.MaxEventBytes > math.MaxInt32 {
		return invalid("max_event_bytes is %d: give a number from %d to %d", o.MaxEventBytes, leastMaximum, math.MaxInt32)
	}
	return nil
}

// A Bus is this process's place on a bus. Close it before the program ends: what was sent may otherwise not
// leave the process.
type Bus struct {
	options   Options
	roster    *roster
	member    *member
	context   unsafe.Pointer
	publisher *publisher

	mu            sync.Mutex
	closed        bool
	subscriptions map[*Subscription]struct{}
	numbered      int
	published     string
	stop          chan struct{}
	stopped       chan struct{}
}

var contexts atomic.Int32

// Open opens a bus, and creates its directory if nobody has. Nil options are the defaults.
//
// Its errors are of kind Invalid (an option), PermissionDenied (the directory is not safe to use, or belongs to
// somebody else), and Unavailable (the operating system refused something).
func Open(options *Options) (*Bus, error) {
	b := &Bus{subscriptions: map[*Subscription]struct{}{}, stop: make(chan struct{}), stopped: make(chan struct{})}
	if options != nil {
		b.options = *options
	}
	if err := b.options.complete(); err != nil {
		return nil, err
	}
	if err := checkDescriptors(); err != nil {
		return nil, err
	}
	root := b.options.Dir
	if root == "" {
		root = DefaultRoot()
	}
	var err error
	byDefault := b.options.Dir == "" && os.Getenv("ZBUS_DIR") == ""
	if b.roster, err = openRoster(root, b.options.Bus, byDefault); err != nil {
		return nil, err
	}
	b.member = &member{id: newID(), origins: []string{}}
	if err := b.member.create(b.roster); err != nil {
		b.roster.close()
		return nil, err
	}
	b.context = C.zmq_ctx_new()
	prefix := contexts.Add(1) % 10000
	C.zmq_ctx_set(b.context, C.ZMQ_THREAD_NAME_PREFIX, C.int(prefix))
	C.zmq_ctx_set(b.context, C.ZMQ_MAX_SOCKETS, 16384)
	b.publisher = &publisher{
		bus: b, links: map[string]*link{}, topics: map[topicKey]*topic{}, full: map[string]bool{}, pause: restPause,
		nextCheck: capacityBytes / 2,
		io:        ioThread{prefix: fmt.Sprintf("%d/ZMQbg/IO/", prefix)},
	}
	b.roster.reap(200 * time.Millisecond)
	go b.keepHouse()
	return b, nil
}

// Send sends one event to every subscription that selects it, and returns how that went; no subscriber is not
// an error. It waits while a subscriber joins, and while a Block subscriber has no room, until ctx ends; without
// a deadline, for the SendTimeout of the bus.
//
// data is nil (no data), a []byte (raw bytes: they arrive as bytes, not as base64), a json.RawMessage (JSON text,
// checked and sent as it is), or any value that encoding/json can marshal.
//
// Its errors are of kind Invalid (names, path or data cannot be sent), Timeout (retryable: it reached nobody),
// Canceled (ctx or the bus), and Unavailable.
func (b *Bus) Send(ctx context.Context, system, kind, path string, data any) error {
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	field, err := (*buffer)[:0], checkPath(path)
	if err == nil {
		field, err = appendData(field, data, 0)
	}
	if err != nil {
		if wrong := CheckTopic(system, kind); wrong != nil {
			err = wrong
		}
		return err
	}
	if cap(field) <= 1<<20 {
		*buffer = field
	}
	return b.publisher.send(ctx, system, kind, path, field, 1)
}

// SendMany sends several events of one topic as one frame: they arrive, or are lost, together. That is several
// times cheaper than single events. Errors are those of Send; if there is one, nothing was sent.
func (b *Bus) SendMany(ctx context.Context, system, kind string, items []Item) error {
	if err := CheckTopic(system, kind); err != nil || len(items) == 0 {
		return err
	}
	field, err := appendItems(nil, items)
	if err != nil {
		return err
	}
	return b.publisher.send(ctx, system, kind, "", field, uint64(len(items)))
}

var buffers = sync.Pool{New: func() any { return new([]byte) }}

// Subscribe returns a subscription to the systems that a pattern selects; see Pattern. Every event that any
// process sends after that reaches it.
//
// Its errors are of kind Invalid (a pattern, an option), Canceled (ctx, or the bus is closed), PermissionDenied and Unavailable.
func (b *Bus) Subscribe(ctx context.Context, pattern string, options ...SubscribeOption) (*Subscription, error) {
	s := &Subscription{
		bus: b, system: pattern, capacity: b.options.Capacity, id: newID(),
		ready: make(chan struct{}), commands: make(chan func(), 1), stop: make(chan struct{}), done: make(chan struct{}),
		wake: make(chan struct{}, 1), room: make(chan struct{}, 1),
	}
	for _, option := range options {
		option(s)
	}
	systems, err := ParsePattern(pattern)
	if err != nil {
		return nil, err
	}
	var kinds *Pattern
	if s.kind != "" {
		if kinds, err = ParsePattern(s.kind); err != nil {
			return nil, err
		}
	}
	if s.capacity < 1 || s.capacity > math.MaxInt32 || s.overflow != drop && s.overflow != block {
		return nil, invalid("capacity %d, overflow %d: give a capacity from 1 to %d, and Drop or Block", s.capacity, s.overflow, math.MaxInt32)
	}
	if ctx.Err() != nil {
		return nil, ended(ctx, "not subscribed")
	}
	if err := checkDescriptors(); err != nil {
		return nil, err
	}
	s.decoder = NewDecoder(systems, kinds, -1, -1, maxTopics)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, canceled("the bus")
	}
	if err := b.restore(true); err != nil {
		return nil, err
	}
	return s, b.join(s, Prefixes(systems, kinds))
}

// join announces a subscription (R16): listen, then the entry, then the token.
func (b *Bus) join(s *Subscription, prefixes []string) error {
	if err := s.listen(prefixes); err != nil {
		return err
	}
	go s.run()
	s.entry = fmt.Sprintf("%s.1.%s", s.id, overflows[s.overflow])
	err := b.roster.writeEntry(s.entry, s.describe())
	announced := clock()
	if err == nil {
		if err = b.roster.now.Load().touch(); err != nil {
			removeOurs(b.roster.file(s.entry))
		}
	}
	if err != nil {
		removeOurs(b.roster.file(s.id + ".sock"))
		s.end()
		return err
	}
	s.decoder.setJoined(announced, clock())
	close(s.ready)
	if b.subscriptions[s] = struct{}{}; len(b.subscriptions) == 1 {
		b.roster.reap(200 * time.Millisecond)
	}
	b.numbered++
	s.number = b.numbered
	return nil
}

// leave removes a subscription from the roster (R18), once.
func (b *Bus) leave(s *Subscription) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, here := b.subscriptions[s]; here {
		delete(b.subscriptions, s)
		b.withdraw(s)
		b.roster.now.Load().touch()
	}
}

func (b *Bus) withdraw(s *Subscription) {
	removeOurs(b.roster.file(s.entry))
	removeOurs(b.roster.file(s.id + ".sock"))
}

// restore creates again what somebody has removed of this process: the directory if it may, the member file,
// sockets and entries, with the same ids (R36 to R38). The lock is held.
func (b *Bus) restore(create bool) error {
	r, moved := b.roster, false
	if !r.now.Load().current(r.path) {
		if _, err := os.Lstat(r.path); err != nil && !create {
			return nil
		}
		if err := r.follow(); err != nil {
			return err
		}
		moved = true
	}
	if !leadsTo(r.file(b.member.id+".member"), b.member.file) {
		if err := b.member.create(r); err != nil {
			return err
		}
		moved = true
	}
	for s := range b.subscriptions {
		if identify(r.file(s.id+".sock")) != s.socket {
			var err error
			if s.do(func() { err = s.bind() }); err != nil {
				return err
			}
			moved = true
		}
		if _, err := os.Lstat(r.file(s.entry)); err != nil {
			if err := r.writeEntry(s.entry, s.describe()); err != nil {
				return err
			}
			moved = true
		}
	}
	if moved {
		r.touchAll()
	}
	return nil
}

// keepHouse looks once a second whether others still find this process, and publishes its numbers.
func (b *Bus) keepHouse() {
	defer close(b.stopped)
	second := time.NewTicker(time.Second)
	defer second.Stop()
	for {
		select {
		case <-b.stop:
			return
		case <-second.C:
		}
		b.mu.Lock()
		if err := b.restore(false); err != nil {
			slog.Error("zbus: files of this process are missing, and it cannot create them again", "reason", err)
		}
		if b.roster.leftovers {
			b.roster.reap(patience)
		}
		text, changed := b.numbers()
		b.mu.Unlock()
		if changed {
			b.member.publish(text)
		}
		b.publisher.mu.Lock()
		for _, socket := range b.publisher.sockets {
			if socket != nil {
				C.zb_serve(socket) // libzmq frees what waited for peers that are gone
			}
		}
		b.publisher.mu.Unlock()
	}
}

// numbers returns the live numbers of this process (R55), and whether any has changed.
func (b *Bus) numbers() ([]byte, bool) {
	received, channels := uint64(0), []map[string]any{}
	for s := range b.subscriptions {
		s.mu.Lock()
		kind := s.kind
		if kind == "" {
			kind = "*"
		}
		channels = append(channels, map[string]any{
			"id": s.number, "system": s.system, "kind": kind, "overflow": overflows[s.overflow],
			"received": s.received, "lost": s.lost, "malformed": s.malformed,
		})
		received += s.received
		s.mu.Unlock()
	}
	p := b.publisher
	p.mu.Lock()
	events, size, count := p.pastEvents, p.pastLen, p.pastTopics+len(p.topics)
	busiest := make([]*topic, 0, len(p.topics))
	for _, t := range p.topics {
		events += t.seq
		size += t.bytes
		busiest = append(busiest, t)
	}
	slices.SortFunc(busiest, func(a, b *topic) int { return int(b.seq) - int(a.seq) })
	topics := [][]any{}
	for _, t := range busiest[:min(100, len(busiest))] {
		topics = append(topics, []any{t.system, t.kind, t.seq, t.bytes})
	}
	joins := p.joins
	p.mu.Unlock()
	slices.SortFunc(channels, func(a, b map[string]any) int { return a["id"].(int) - b["id"].(int) })
	all := map[string]any{
		"sent": map[string]any{"events": events, "bytes": size, "topics": count}, "topics": topics, "joins": joins,
		"received": map[string]any{"events": received, "channels": len(channels)}, "channels": channels,
	}
	text, _ := json.Marshal(all)
	changed := string(text) != b.published
	b.published = string(text)
	return fmt.Appendf(nil, `{"time":%d,%s`, time.Now().UnixMicro(), text[1:]), changed
}

// Close leaves the bus: it refuses new calls, ends the subscriptions (what has arrived can still be received),
// and waits until others have read what was sent, for at most Linger. Closing twice is fine.
func (b *Bus) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		<-b.stopped
		return nil
	}
	b.closed = true
	subscriptions := b.subscriptions
	b.subscriptions = map[*Subscription]struct{}{}
	for s := range subscriptions {
		b.withdraw(s)
	}
	if len(subscriptions) > 0 {
		b.roster.now.Load().touch()
	}
	b.mu.Unlock()
	close(b.stop)
	<-b.stopped
	b.publisher.refuse()
	deadline := time.Now().Add(b.options.Linger)
	b.publisher.finish(deadline)
	held := b.publisher.close(deadline)
	for s := range subscriptions {
		s.end()
	}
	for C.zmq_ctx_term(b.context) != 0 { // interrupted
	}
	for _, fd := range held {
		for unread(fd) > 0 && time.Now().Before(deadline) {
			time.Sleep(time.Millisecond)
		}
		syscall.Close(fd)
	}
	b.member.close(b.roster)
	b.roster.close()
	return nil
}
