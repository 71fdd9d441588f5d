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
// Peers speak ZMTP 3.0, the protocol of ZeroMQ, over unix sockets; the part of it that a bus needs stands below, so
// this package needs no libzmq. W22, R20 and the like are clauses of docs/spec/wire.md and docs/spec/roster.md.
//
// The file is ordered like a book: events and errors, frames, JSON, patterns, loss, the directory, the connection,
// receiving, sending, the bus.
package zbus

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	"math"
	"net"
	"os"
	"path/filepath"
	"regexp"
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
	if err := json.Unmarshal([]byte(cmp.Or(string(e.Data), "null")), v); err != nil {
		return invalid("the data of %s %s does not fit: %w", e.System, e.Kind, err)
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

// failure formats an error as fmt.Errorf does: %w names its cause.
func failure(kind ErrorKind, retryable bool, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{kind, err.Error(), retryable, errors.Unwrap(err)}
}

func invalid(format string, args ...any) *Error { return failure(Invalid, false, format, args...) }

func canceled(what string) *Error { return failure(Canceled, false, "%s is closed", what) }

// unavailable wraps an error of the operating system, unless it is an Error already.
func unavailable(doing string, err error) error {
	var known *Error
	var errno syscall.Errno
	if err == nil || errors.As(err, &known) {
		return err
	}
	switch errors.As(err, &errno); errno {
	case syscall.EACCES, syscall.EPERM:
		return failure(PermissionDenied, false, "cannot %s: %w", doing, err)
	case syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOSPC, syscall.EDQUOT, syscall.EAGAIN, syscall.ENOBUFS:
		return failure(Unavailable, true, "cannot %s: %w", doing, err)
	}
	return failure(Unavailable, false, "cannot %s: %w", doing, err)
}

// ended returns the error of a call whose context has ended.
func ended(ctx context.Context, waitingFor string) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return failure(Timeout, true, "%s: %w", waitingFor, context.Cause(ctx))
	}
	return failure(Canceled, false, "the context was canceled: %w", context.Cause(ctx))
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

// parseStamp reads a stamp; it reports whether it is well-formed. An empty one leaves Seq 0.
func parseStamp(raw []byte) (s Stamp, good bool) {
	s = Stamp{Born: Untold, Settled: Untold, First: Untold, Time: Untold}
	if len(raw) == 0 {
		return s, true
	}
	origin, rest, _ := bytes.Cut(raw, []byte{'.'})
	if len(origin) < 8 || copy(s.origin[:], origin) < len(origin) || len(bytes.Trim(origin, "0123456789abcdef")) > 0 {
		return s, false
	}
	var text []byte
	for _, field := range [...]*uint64{&s.Seq, &s.Born, &s.Settled, &s.First, &s.Time} {
		text, rest, _ = bytes.Cut(rest, []byte{'.'})
		*field = parseNumber(text)
	}
	return s, s.Seq != Untold && s.Seq > 0
}

var buses = regexp.MustCompile(`\A([^.]*\.){6}[0-9a-f]{16}(-[0-9a-f]{16}){0,31}(\.|\z)`)

// isRelayed reports whether a stamp names the buses on which the events have been: a link has sent them (W55).
func isRelayed(stamp []byte) bool { return buses.Match(stamp) }

// parseNumber returns a number of 1 to 19 digits; anything else is untold.
func parseNumber(text []byte) (n uint64) {
	if len(text) == 0 || len(text) > 19 || digits(text) < len(text) {
		return Untold
	}
	for _, digit := range text {
		n = 10*n + uint64(digit-'0')
	}
	return n
}

// checkText refuses what no field of a frame may hold.
func checkText(what, text string) error {
	switch {
	case text == "":
		return invalid("%s is required", what)
	case strings.IndexByte(text, 0) >= 0:
		return invalid("%s %q contains NUL, which separates fields: remove it", what, text)
	case !utf8.ValidString(text):
		return invalid("%s %q is not UTF-8", what, text)
	}
	return nil
}

// checkName refuses what is not a system or kind (W3).
func checkName(what, name string) error {
	if err := checkText(what, name); err != nil {
		return err
	}
	if strings.ContainsAny(name, "*()|") {
		return invalid("%s %q contains one of '*()|', which only a subscription may use: send a literal name", what, name)
	}
	if slices.Contains(strings.Split(name, "."), "") {
		return invalid("%s %q has an empty segment: use single dots between words", what, name)
	}
	return nil
}

func checkTopic(system, kind string) error {
	if system == "zbus" || strings.HasPrefix(system, "zbus.") {
		return invalid("system %q is reserved for events of the bus itself: choose another name", system)
	}
	return cmp.Or(checkName("system", system), checkName("kind", kind))
}

// An Item is one event of a batch; see Bus.SendMany.
type Item struct {
	Path string
	Data any // as in Bus.Send, but not []byte
}

// encodeItems returns the data field of a batch (W12).
func encodeItems(items []Item) ([]byte, error) {
	rows := make([][]byte, len(items))
	for i, item := range items {
		if _, raw := item.Data.([]byte); raw {
			return nil, invalid("a batch carries JSON only: send bytes one event at a time")
		}
		row, _ := encodeData(item.Path)
		data, err := encodeData(item.Data)
		if err = cmp.Or(checkText("path", item.Path), err); err != nil {
			return nil, err
		}
		if len(data) > 0 {
			row = slices.Concat(row, []byte{','}, data)
		}
		rows[i] = slices.Concat([]byte{'['}, row, []byte{']'})
	}
	text := slices.Concat([]byte{'['}, bytes.Join(rows, []byte{','}), []byte{']'})
	if !isStrict(text) { // two arrays more
		return nil, invalid("the data is more than 1,024 levels deep, with the batch around it")
	}
	return text, nil
}

// EncodeFrame returns the frame of an event, or of a batch if items is not nil, with a ready stamp. It is for
// tools: Send makes its frames of the same parts.
func EncodeFrame(system, kind, path, stamp string, data any, items []Item) (frame []byte, err error) {
	var field []byte
	if items != nil {
		field, err = encodeItems(items)
	} else if field, err = encodeData(data); err == nil {
		err = checkText("path", path)
	}
	return fmt.Appendf(nil, "%s\x00%s\x00%s\x00%s\x00%s", system, kind, path, stamp, field), cmp.Or(checkTopic(system, kind), err)
}

// ---------------------------------------------------------------------------------------------------------
// JSON: encoding/json takes and makes more than what every receiver takes (W51), so this checks the rest (W52)

const maxDepth = 1024

// encodeData returns the data field of an event (W9). It returns an Error of kind Invalid for what no receiver
// takes, or what JSON could only carry as something else.
func encodeData(data any) ([]byte, error) {
	switch data := data.(type) {
	case nil:
		return nil, nil
	case []byte:
		return append([]byte{0}, data...), nil
	case json.RawMessage:
		if data != nil && !isStrict(data) {
			return nil, invalid("the data is not the JSON that every receiver takes (RFC 8259; finite numbers, " +
				"UTF-8, whole surrogate pairs, at most 1,024 deep)")
		}
		return data, nil
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(data); err != nil {
		return nil, invalid("the data cannot be sent as JSON: %w", err)
	}
	text := bytes.TrimSuffix(out.Bytes(), []byte{'\n'})
	if !isStrict(text) || isRepaired(text) {
		return nil, invalid("the data becomes JSON that no receiver takes: text that is not UTF-8 (send it as " +
			"[]byte), half a surrogate pair, a number that is infinite, or more than 1,024 levels")
	}
	return text, nil
}

// isStrict reports whether a text is the JSON that every receiver takes (W51, W52): UTF-8, whole surrogate pairs,
// finite numbers, at most maxDepth levels. encoding/json takes more, and three times as long.
func isStrict(text []byte) bool {
	rest, good := skipValue(text, maxDepth)
	return good && len(skipSpace(rest)) == 0 && utf8.Valid(text)
}

func skipSpace(text []byte) []byte {
	for len(text) > 0 && (text[0] == ' ' || text[0] == '\t' || text[0] == '\r' || text[0] == '\n') {
		text = text[1:]
	}
	return text
}

// skip returns what follows a character, and the space before it.
func skip(c byte, text []byte) (rest []byte, good bool) {
	if text = skipSpace(text); len(text) == 0 || text[0] != c {
		return text, false
	}
	return text[1:], true
}

// skipValue returns what follows a value of so many levels at most.
func skipValue(text []byte, levels int) (rest []byte, good bool) {
	if text = skipSpace(text); len(text) == 0 {
		return nil, false
	}
	switch text[0] {
	case '"':
		return skipString(text[1:])
	case '[':
		return skipItems(text[1:], ']', levels-1)
	case '{':
		return skipItems(text[1:], '}', levels-1)
	case 't':
		return bytes.CutPrefix(text, []byte("true"))
	case 'f':
		return bytes.CutPrefix(text, []byte("false"))
	case 'n':
		return bytes.CutPrefix(text, []byte("null"))
	}
	return skipNumber(text)
}

// skipItems returns what follows an array or an object that has begun.
func skipItems(text []byte, end byte, levels int) (rest []byte, good bool) {
	if text, good = skip(end, text); good || levels < 0 {
		return text, levels >= 0
	}
	for {
		if end == '}' {
			if text, good = skip('"', text); good {
				text, good = skipString(text)
			}
			if good {
				text, good = skip(':', text)
			}
			if !good {
				return nil, false
			}
		}
		if text, good = skipValue(text, levels); !good {
			return nil, false
		}
		if rest, good = skip(end, text); good {
			return rest, true
		}
		if text, good = skip(',', text); !good {
			return nil, false
		}
	}
}

// skipString returns what follows a string that has begun.
func skipString(text []byte) (rest []byte, good bool) {
	for i := 0; i < len(text) && text[i] >= ' '; i++ {
		switch text[i] {
		case '"':
			return text[i+1:], true
		case '\\':
			size := escaped(text[i:])
			if size == 0 {
				return nil, false
			}
			i += size - 1
		}
	}
	return nil, false
}

// escaped returns the size of the escape that begins a text, or of a surrogate pair of two; 0 if it is wrong.
func escaped(text []byte) int {
	if len(text) > 1 && strings.IndexByte(`"\/bfnrt`, text[1]) >= 0 {
		return 2
	}
	switch unit := codeUnit(text); {
	case unit < 0xd800 || unit > 0xdfff && unit <= 0xffff:
		return 6
	case unit < 0xdc00 && codeUnit(text[6:])&^0x3ff == 0xdc00:
		return 12
	}
	return 0
}

// codeUnit returns the number in an escape with `u`; more than 16 bits if there is none.
func codeUnit(text []byte) uint64 {
	if len(text) < 6 || text[0] != '\\' || text[1] != 'u' {
		return Untold
	}
	unit, err := strconv.ParseUint(string(text[2:6]), 16, 16)
	if err != nil {
		return Untold
	}
	return unit
}

func skipNumber(text []byte) (rest []byte, good bool) {
	rest = bytes.TrimPrefix(text, []byte{'-'})
	count := digits(rest)
	good = count == 1 || count > 1 && rest[0] != '0'
	if rest = rest[count:]; len(rest) > 0 && rest[0] == '.' {
		count = digits(rest[1:])
		rest, good = rest[1+count:], good && count > 0
	}
	if len(rest) > 0 && rest[0]|0x20 == 'e' {
		if rest = rest[1:]; len(rest) > 0 && (rest[0] == '+' || rest[0] == '-') {
			rest = rest[1:]
		}
		count = digits(rest)
		rest, good = rest[count:], good && count > 0
	}
	return rest, good && !isInfinite(text[:len(text)-len(rest)])
}

// digits returns with how many digits a text begins.
func digits(text []byte) (count int) {
	for count < len(text) && text[count] >= '0' && text[count] <= '9' {
		count++
	}
	return count
}

func isInfinite(number []byte) bool {
	if len(number) < 200 && !bytes.ContainsAny(number, "eE") {
		return false
	}
	value, _ := strconv.ParseFloat(string(number), 64)
	return math.IsInf(value, 0)
}

var repairs = regexp.MustCompile(`\\\\|(\\ufffd)`)

// isRepaired reports whether encoding/json has replaced bytes that are not UTF-8. It writes U+FFFD itself as it is.
func isRepaired(text []byte) bool {
	return bytes.Contains(text, []byte(`\ufffd`)) &&
		slices.ContainsFunc(repairs.FindAllSubmatchIndex(text, -1), func(match []int) bool { return match[2] >= 0 })
}

// decodeItems appends the events of a batch (W12) to `to`; it reports whether the text is one.
func decodeItems(text []byte, to []Event) ([]Event, bool) {
	var items [][]json.RawMessage
	if !bytes.HasPrefix(bytes.TrimLeft(text, " \t\r\n"), []byte{'['}) || json.Unmarshal(text, &items) != nil || !isStrict(text) {
		return to, false
	}
	for _, item := range items {
		var evt Event
		if len(item) < 1 || len(item) > 2 || json.Unmarshal(item[0], &evt.Path) != nil || checkText("path", evt.Path) != nil {
			return to, false
		}
		if len(item) == 2 {
			evt.Data = item[1]
		}
		to = append(to, evt)
	}
	return to, true
}

// ---------------------------------------------------------------------------------------------------------
// Patterns

// A Pattern selects names. Its segments are separated by dots: `*` selects one segment, `**` any number of
// them, `(a|b)` one of these, anything else itself. `*` on its own selects everything.
type Pattern struct {
	segments []segment
	names    *regexp.Regexp // matches names that end in a dot
}

type segment struct {
	deep  bool     // `**`
	words []string // sorted, one if it is literal; nil for a wildcard
}

var segmentForm = regexp.MustCompile(`\A(\*\*?|[^*()|]+|\([^*()|]+(\|[^*()|]+)*\))\z`)

// ParsePattern compiles a pattern. It returns an Error of kind Invalid that names the form to use.
func ParsePattern(pattern string) (*Pattern, error) {
	if err := checkText("a pattern", pattern); err != nil {
		return nil, err
	}
	if pattern == "*" {
		pattern = "**"
	}
	p, expression := &Pattern{}, `\A`
	for _, part := range strings.Split(pattern, ".") {
		words := strings.Split(strings.Trim(part, "()"), "|")
		if !segmentForm.MatchString(part) || slices.ContainsFunc(words, isForeignWildcard) {
			return nil, invalid("%q is not a pattern: between dots stands a word, '*' for exactly one segment, "+
				"'**' for any number of them, or '(a|b)' for one of several words, but not %q", pattern, part)
		}
		switch part {
		case "*":
			p.segments = append(p.segments, segment{})
			expression += `[^.]*\.`
		case "**":
			p.segments = append(p.segments, segment{deep: true})
			expression += `(?:[^.]*\.)*`
		default:
			slices.Sort(words)
			p.segments = append(p.segments, segment{words: slices.Compact(words)})
			expression += "(?:" + strings.ReplaceAll(regexp.QuoteMeta(strings.Join(words, "|")), `\|`, "|") + `)\.`
		}
	}
	p.names = regexp.MustCompile(expression + `\z`)
	return p, nil
}

// isForeignWildcard reports whether other systems would take a word for a wildcard (W18).
func isForeignWildcard(word string) bool { return word == ">" || word == "#" || word == "+" }

// Match reports whether the pattern selects a name.
func (p *Pattern) Match(name string) bool { return p.names.MatchString(name + ".") }

const maxPrefixes = 16

// Prefixes returns the ZeroMQ subscriptions of a channel, sorted (W22).
func Prefixes(system, kind *Pattern) []string {
	heads, literal := system.heads()
	if literal {
		nothing := []string{""}
		tails, closed := kind.heads()
		if closed {
			tails = each(tails, "\x00", nothing)
		}
		if len(heads)*len(tails) > maxPrefixes {
			tails = nothing
		}
		heads = each(heads, "\x00", tails)
	}
	slices.Sort(heads)
	return heads
}

// heads returns the texts before the first wildcard, and whether there is none.
func (p *Pattern) heads() ([]string, bool) {
	heads, dot := []string{""}, ""
	for _, s := range p.segments {
		switch {
		case s.deep:
			return heads, false
		case s.words == nil || len(heads)*len(s.words) > maxPrefixes:
			return each(heads, dot, []string{""}), false
		}
		heads, dot = each(heads, dot, s.words), "."
	}
	return heads, true
}

// each returns every head with every tail.
func each(heads []string, between string, tails []string) (both []string) {
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
	meant        uint64 // what has settled then, or later, was meant for this channel (W38)
	joined       uint64 // Untold is after everything
	forgetful    bool
	latestBorn   uint64

	topics     map[string]*heardTopic
	young, old map[streamKey]*stream

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

// NewDecoder decodes for a channel that selects by these patterns. It was announced and had
// joined at these times, in microseconds of CLOCK_MONOTONIC (W28, W38); negative if unknown. It remembers the
// streams that it used last, at least `limit`.
func NewDecoder(system, kind *Pattern, announced, joined int64, limit int) *Decoder {
	d := &Decoder{
		system: system, kind: kind, limit: limit,
		topics: map[string]*heardTopic{}, young: map[streamKey]*stream{},
	}
	d.setJoined(announced, joined)
	return d
}

func (d *Decoder) setJoined(announced, joined int64) {
	d.meant, d.joined, d.forgetful = uint64(announced+1), uint64(joined), joined < 0
}

// Decode returns the events of a frame for this channel, and what it shows as lost before them. Both slices
// are valid until the next call; the events refer to the frame.
func (d *Decoder) Decode(frame []byte) ([]Event, []Gap) {
	d.events, d.gaps = d.events[:0], d.gaps[:0]
	d.Stamp, _ = parseStamp(nil)
	if len(frame) > 0 && frame[0] == control {
		return nil, nil
	}
	if !d.decode(frame) {
		d.Malformed++
		return nil, d.gaps[:0]
	}
	return d.events, d.gaps
}

func (d *Decoder) decode(frame []byte) (good bool) {
	var nul [4]int // where the fields end
	for i, start := 0, 0; i < len(nul); i++ {
		length := bytes.IndexByte(frame[start:], 0)
		if length < 0 {
			return false
		}
		nul[i] = start + length
		start = nul[i] + 1
	}
	t := d.topic(frame[:nul[1]+1], nul[0])
	if t == nil || !t.wanted {
		return t != nil
	}
	path, stamp, data := frame[nul[1]+1:nul[2]], frame[nul[2]+1:nul[3]], frame[nul[3]+1:]
	if d.Stamp, good = parseStamp(stamp); !good || !utf8.Valid(path) || !d.decodeData(string(path), data) {
		return false
	}
	if d.Stamp.Seq > 0 && !d.count(t, stamp) {
		return false
	}
	var at time.Time
	if sent := d.Stamp.Time; sent != Untold {
		at = time.Unix(int64(sent/1e6), int64(sent%1e6)*1000)
	}
	for i := range d.events {
		evt := &d.events[i]
		evt.System, evt.Kind, evt.Origin, evt.Time = t.system, t.kind, d.Stamp.Origin, at
		if d.Stamp.Seq > 0 {
			evt.Seq = d.Stamp.Seq + uint64(i)
		}
	}
	return true
}

// topic looks up system NUL kind NUL; it returns nil if these are no names.
func (d *Decoder) topic(head []byte, nul int) *heardTopic {
	if t := d.topics[string(head)]; t != nil {
		return t
	}
	own := string(head)
	system, kind := own[:nul], own[nul+1:len(own)-1]
	if checkName("", system) != nil || checkName("", kind) != nil {
		return nil
	}
	if len(d.topics) >= maxTopics {
		clear(d.topics)
	}
	wanted := d.system.Match(system) && d.kind.Match(kind)
	d.topics[own] = &heardTopic{own, system, kind, wanted}
	return d.topics[own]
}

func (d *Decoder) decodeData(path string, data []byte) (good bool) {
	if path == "" {
		d.events, good = decodeItems(data, d.events)
		return good && (len(d.events) > 0 || d.Stamp.Seq > 0)
	}
	evt := Event{Path: path}
	switch {
	case len(data) == 0:
	case data[0] == 0:
		evt.Bytes = data[1:len(data):len(data)]
	case isStrict(data):
		evt.Data = data[:len(data):len(data)]
	default:
		return false
	}
	d.events = append(d.events, evt)
	return true
}

// count accounts for the frame that was just read (W29 to W41); it reports whether its number is credible. What came
// before, and a link has sent again, is skipped (W56).
func (d *Decoder) count(t *heardTopic, raw []byte) bool {
	stamp, events := &d.Stamp, uint64(len(d.events))
	key := streamKey{t.head, stamp.origin}
	s, counted := d.find(key), true
	isNew := s == nil
	if isNew {
		s = &stream{origin: strings.TrimRight(string(stamp.origin[:]), "\x00")}
		s.due, counted = d.firstDue(stamp)
		s.begin = s.due
	}
	stamp.Origin = s.origin
	if counted && stamp.Seq > s.due && stamp.Seq-s.due > maxGap {
		return false
	}
	switch {
	case events > 0 && stamp.Seq+events <= s.due && isRelayed(raw):
		d.events = d.events[:0]
		return true
	case isNew && stamp.Born != Untold:
		d.latestBorn = max(d.latestBorn, stamp.Born)
	case !isNew && events == 0:
		d.countHead(t, s)
	}
	if !counted {
		return true
	}
	if isNew {
		d.keep(key, s)
	}
	if s.due < stamp.Seq {
		d.lose(t, s, s.due, stamp.Seq-1)
	}
	if s.due = max(s.due, stamp.Seq); events > 0 {
		s.due = stamp.Seq + events
	}
	return true
}

// firstDue returns the number that is due when a stream is first seen, and whether it is counted yet (W29).
func (d *Decoder) firstDue(stamp *Stamp) (uint64, bool) {
	switch {
	case stamp.Born != Untold && stamp.Born > d.joined:
		return 1, true
	case stamp.Settled == Untold:
	case stamp.Settled < d.meant:
		return 0, false
	case stamp.First > 0 && stamp.First <= stamp.Seq && !d.forgetful:
		return stamp.First, true
	}
	return stamp.Seq, true
}

// countHead counts what a mark shows that was lost before the stream was counted (W40).
func (d *Decoder) countHead(t *heardTopic, s *stream) {
	settled, first := d.Stamp.Settled, d.Stamp.First
	if d.forgetful || settled == Untold || settled < d.meant || first == 0 || first >= s.begin || s.begin-first > maxGap {
		return
	}
	d.lose(t, s, first, s.begin-1)
	s.begin = first
}

func (d *Decoder) lose(t *heardTopic, s *stream, first, last uint64) {
	d.gaps = append(d.gaps, Gap{s.origin, t.system, t.kind, first, last})
	d.Lost += last - first + 1
}

func (d *Decoder) find(key streamKey) *stream {
	s := d.young[key]
	if s == nil {
		if s = d.old[key]; s != nil {
			delete(d.old, key)
			d.keep(key, s)
		}
	}
	return s
}

// keep makes a stream one of the young. When there are too many, the old ones are forgotten (W34).
func (d *Decoder) keep(key streamKey, s *stream) {
	if len(d.young) >= d.limit {
		if len(d.old) > 0 {
			d.forgetful, d.joined = true, max(d.joined, d.latestBorn)
		}
		d.young, d.old = map[streamKey]*stream{}, d.young
	}
	d.young[key] = s
}

// ---------------------------------------------------------------------------------------------------------
// The directory: where it is, who may use it, what is in it

var (
	busName   = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$`)
	entryName = regexp.MustCompile(`^([0-9a-f]{8,32})\.([1-9][0-9]{0,17})\.(drop|block)$`)
	otherName = regexp.MustCompile(`^([0-9a-f]{8,32})\.(sock|member|new)$`)
	overflows = [...]string{Drop: "drop", Block: "block"}
)

// A FileName says what a file of a bus directory is (R5): an entry, which has an epoch and an overflow policy,
// or a "socket", "member", "new" or "token".
type FileName struct {
	ID, Is   string
	Epoch    uint64
	Overflow string
	name     string
}

// ParseFileName returns what a name stands for, and whether it is one that a peer may touch.
func ParseFileName(name string) (FileName, bool) {
	if m := entryName.FindStringSubmatch(name); m != nil {
		epoch, _ := strconv.ParseUint(m[2], 10, 64)
		return FileName{m[1], "entry", epoch, m[3], name}, true
	}
	if m := otherName.FindStringSubmatch(name); m != nil {
		return FileName{ID: m[1], Is: strings.Replace(m[2], "sock", "socket", 1), name: name}, true
	}
	return FileName{Is: name, name: name}, name == "token"
}

// ParseSentinel returns the ingress and epoch of a sentinel (W26), and whether the topic is one.
func ParseSentinel(topic []byte) (id string, epoch uint64, good bool) {
	if len(topic) == 0 || topic[0] != control {
		return "", 0, false
	}
	name, good := ParseFileName(string(topic[1:]) + ".drop")
	return name.ID, name.Epoch, good && name.Is == "entry"
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
	return filepath.Join(cmp.Or(os.Getenv("TMPDIR"), "/tmp"), fmt.Sprintf("zbus-%d", os.Geteuid()))
}

func owner(info os.FileInfo) int { return int(info.Sys().(*syscall.Stat_t).Uid) }

func random() []byte {
	raw := make([]byte, 8)
	rand.Read(raw)
	return raw
}

func newID() string { return hex.EncodeToString(random()) }

// An identity tells files apart, also if the number of an inode is used again.
type identity struct{ device, inode, changed uint64 }

func identify(path string) identity {
	var s syscall.Stat_t
	if syscall.Lstat(path, &s) != nil {
		return identity{}
	}
	return identity{uint64(s.Dev), s.Ino, uint64(s.Ctim.Nano())}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// leadsTo reports whether a path still leads to an open file.
func leadsTo(path string, file *os.File) bool {
	there, err := os.Lstat(path)
	here, wrong := file.Stat()
	return err == nil && wrong == nil && os.SameFile(there, here)
}

// openRegular opens a regular file, follows no link, and never blocks (R32).
func openRegular(path string, flags int) (*os.File, error) {
	file, err := os.OpenFile(path, flags|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		file.Close()
		return nil, failure(Unavailable, false, "%s is not a regular file", path)
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
	file, err := openRegular(path, os.O_RDONLY)
	if err != nil {
		return false
	}
	defer file.Close()
	return syscall.Flock(int(file.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) == nil
}

// rights are those of what is created in a directory (R48).
type rights struct {
	group           int // -1 if it is private
	directory, file os.FileMode
}

var private = rights{-1, 0o700, 0o600}

func rightsBelow(info os.FileInfo) rights {
	mode := info.Mode()
	if mode&os.ModeSetgid != 0 && mode&0o070 == 0o070 && mode&0o002 == 0 {
		directory := mode&(os.ModePerm|os.ModeSetgid|os.ModeSticky) | 0o700
		return rights{int(info.Sys().(*syscall.Stat_t).Gid), directory, 0o660}
	}
	return private
}

const toShare = "Several users share a bus in a directory prepared for a group of theirs, with ZBUS_DIR set to it " +
	"for all of them: install -d -g GROUP -m 2770 DIRECTORY"

// checkDirectory refuses a directory that another user controls or can write to (R46, R47).
func checkDirectory(path string, byDefault, last bool) (rights, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return private, unavailable("use "+path, err)
	}
	uid, me, mode, r := owner(info), os.Geteuid(), info.Mode(), rightsBelow(info)
	onTheWay := !last && uid == 0 && mode&0o020 == 0 && syscall.Access(path, 1) == nil
	why := ""
	switch {
	case !mode.IsDir():
		why = "is not a directory, or a link to one: name the directory itself, or remove it"
	case mode&0o002 != 0:
		why = "is writable by everybody, who could forge events: chmod o-w it"
	case byDefault && uid != me:
		why = fmt.Sprintf("belongs to user %d, and it is where user %d has buses of their own: remove it. %s", uid, me, toShare)
	case r.group >= 0 && !inGroup(r.group):
		why = fmt.Sprintf("is for group %d: add the user to it (usermod -aG) and log in again", r.group)
	case r.group >= 0 && mode&os.ModeSticky != 0:
		why = "has the sticky bit, so nobody could clean up after another user: chmod -t it"
	case r.group < 0 && uid != me && !onTheWay:
		why = fmt.Sprintf("belongs to user %d, for them alone. %s", uid, toShare)
	default:
		return r, nil
	}
	return r, failure(PermissionDenied, false, "%s %s", path, why)
}

func inGroup(group int) bool {
	groups, _ := os.Getgroups()
	return os.Geteuid() == 0 || os.Getegid() == group || slices.Contains(groups, group)
}

// makeDirectory creates a directory unless it exists. One for a group gets its name once it has its rights.
func makeDirectory(path string, r rights) error {
	if exists(path) {
		return nil
	}
	if r.group < 0 {
		return os.Mkdir(path, r.directory)
	}
	scratch := filepath.Join(filepath.Dir(path), "."+newID()+".new")
	defer os.Remove(scratch)
	err := os.Mkdir(scratch, 0o700)
	if err == nil {
		err = os.Lchown(scratch, -1, r.group)
	}
	if err == nil {
		err = os.Chmod(scratch, r.directory)
	}
	if err == nil {
		err = os.Rename(scratch, path)
	}
	return err
}

// makeBus creates what is missing of the path of a bus, and checks the rest (R3).
func makeBus(path string, byDefault bool) (rights, error) {
	root, r := filepath.Dir(filepath.Dir(path)), private
	parent := filepath.Dir(root)
	if !exists(root) {
		if err := checkParents(root); err != nil {
			return r, err
		}
		os.MkdirAll(parent, 0o777)
	}
	if info, err := os.Lstat(parent); err == nil && !byDefault && info.Mode()&0o007 == 0 {
		r = rightsBelow(info)
	}
	for _, directory := range []string{root, filepath.Dir(path), path} {
		err := makeDirectory(directory, r)
		if err != nil && !exists(directory) { // otherwise somebody else was faster
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
	parent := filepath.Dir(root)
	for !exists(parent) {
		parent = filepath.Dir(parent)
	}
	info, err := os.Stat(parent)
	if err == nil && os.Geteuid() == 0 && owner(info) != 0 && info.Mode()&0o002 == 0 && rightsBelow(info).group < 0 {
		return failure(PermissionDenied, false, "%s would be root's, in a directory of user %d, who could not use it: "+
			"run this as that user. %s", root, owner(info), toShare)
	}
	return nil
}

// A handle is an open bus directory: a descriptor with a shared lock (R35), and the token (R10).
type handle struct {
	directory, token *os.File
	mapped           []byte
	rights           rights
}

// openHandle opens a bus directory, and creates what is missing.
func openHandle(path string, byDefault bool) (*handle, error) {
	h := &handle{}
	var err error
	if h.rights, err = makeBus(path, byDefault); err == nil {
		err = h.open(path)
	}
	if err != nil {
		h.close()
		return nil, unavailable("open "+path, err)
	}
	return h, nil
}

func (h *handle) open(path string) (err error) {
	h.directory, err = os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	syscall.Flock(int(h.directory.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
	name := filepath.Join(path, "token")
	if h.token, err = openRegular(name, os.O_RDWR); os.IsNotExist(err) {
		h.token, err = h.create(filepath.Join(path, newID()+".new"), name, random(), os.Link)
		if os.IsExist(err) {
			h.token, err = openRegular(name, os.O_RDWR)
		}
	}
	if err != nil {
		return err
	}
	if info, err := h.token.Stat(); err != nil || info.Size() < 8 {
		h.touch()
	}
	h.mapped, err = syscall.Mmap(int(h.token.Fd()), 0, 8, syscall.PROT_READ, syscall.MAP_SHARED)
	return err
}

// create makes a file that appears whole (R8): it has its lock, rights and text before it has its name.
func (h *handle) create(scratch, name string, text []byte, appear func(from, to string) error) (*os.File, error) {
	file, err := os.OpenFile(scratch, os.O_RDWR|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, h.rights.file)
	if err != nil {
		return nil, err
	}
	defer os.Remove(scratch)
	if err = file.Chmod(h.rights.file); err == nil {
		err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX)
	}
	if err == nil {
		_, err = file.Write(text)
	}
	if err == nil {
		err = appear(scratch, name)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// touch writes a new token, so that everybody looks again.
func (h *handle) touch() error {
	_, err := h.token.WriteAt(random(), 0)
	return unavailable("write the token", err)
}

func (h *handle) current(path string) bool {
	return leadsTo(path, h.directory) && leadsTo(filepath.Join(path, "token"), h.token)
}

func (h *handle) close() {
	if h.mapped != nil {
		syscall.Munmap(h.mapped)
	}
	h.token.Close() // of nil, too
	h.directory.Close()
}

// A view is the state of a bus directory: a reader that knows the same view has nothing to look at.
type view struct {
	handle *handle
	token  uint64
}

// A roster is the directory of one bus.
type roster struct {
	path      string
	byDefault bool
	now       atomic.Pointer[handle]
	mu        sync.Mutex
	former    []*handle           // open as long as the bus, since others may still have their tokens mapped
	dead      map[string]identity // ingresses that did not answer, and what their sockets were (R33)
}

func openRoster(root, bus string, byDefault bool) (*roster, error) {
	if !ValidBus(bus) {
		return nil, invalid("%q is not a bus name: use letters, digits, '_', '-', '.', at most 64", bus)
	}
	root, err := filepath.Abs(root)
	if err = cmp.Or(checkText("the directory", root), err); err != nil {
		return nil, unavailable("find the working directory", err)
	}
	r := &roster{path: filepath.Join(root, "v1", bus), byDefault: byDefault, dead: map[string]identity{}}
	if length := len(r.file("0123456789abcdef.sock")); length > 107 {
		return nil, invalid("%s is too long: its sockets would have %d bytes of at most 107; "+
			"shorten ZBUS_DIR, or the bus name", r.path, length)
	}
	h, err := openHandle(r.path, byDefault)
	r.now.Store(h)
	return r, err
}

func (r *roster) file(name string) string { return filepath.Join(r.path, name) }

// view returns the token as it is now, in one load from memory.
func (r *roster) view() view {
	h := r.now.Load()
	return view{h, atomic.LoadUint64((*uint64)(unsafe.Pointer(unsafe.SliceData(h.mapped))))}
}

// files returns the files of the directory, by id. That of the token is empty.
func (r *roster) files() (map[string][]FileName, error) {
	directory, err := os.Open(r.path)
	if err != nil {
		return nil, unavailable("list "+r.path, err)
	}
	defer directory.Close()
	names, err := directory.Readdirnames(-1)
	files := map[string][]FileName{}
	for _, name := range names {
		if file, good := ParseFileName(name); good {
			files[file.ID] = append(files[file.ID], file)
		}
	}
	return files, unavailable("list "+r.path, err)
}

// entries returns the newest entry of each ingress, as of one moment (R7, R13).
func (r *roster) entries() (map[string]FileName, error) {
	before := r.view()
	files, err := r.files()
	for err == nil && r.view() != before {
		before = r.view()
		files, err = r.files()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.dead, func(id string, socket identity) bool {
		return files[id] == nil || identify(r.file(id+".sock")) != socket
	})
	found := map[string]FileName{}
	for id, of := range files {
		if _, dead := r.dead[id]; dead {
			continue
		}
		for _, file := range of {
			if file.Is == "entry" && file.Epoch > found[id].Epoch {
				found[id] = file
			}
		}
	}
	return found, err
}

func (r *roster) alive(id string) bool { return answers(r.file(id + ".sock")) }

// bury removes the files of a dead ingress (R27), and lists it no more if that fails (R33).
func (r *roster) bury(id string) {
	socket := r.file(id + ".sock")
	r.mu.Lock()
	r.dead[id] = identify(socket)
	r.mu.Unlock()
	files, _ := r.files()
	removed := false
	for _, file := range files[id] {
		if file.Is == "entry" {
			removed = removeOurs(r.file(file.name)) || removed
		}
	}
	if removeOurs(socket) || removed {
		r.now.Load().touch()
	}
}

// reap removes what dead processes left, for a moment; the rest is left to the next peer (R28, R34).
func (r *roster) reap() {
	until := time.Now().Add(200 * time.Millisecond)
	files, _ := r.files()
	for id, of := range files {
		isIngress := false
		for _, file := range of {
			path := r.file(file.name)
			switch file.Is {
			case "member":
				if unlocked(path) {
					removeOurs(path)
				}
			case "new":
				if info, err := os.Lstat(path); err == nil && time.Since(info.ModTime()) > 24*time.Hour {
					removeOurs(path)
				}
			case "entry", "socket":
				isIngress = true
			}
		}
		if isIngress && !r.alive(id) {
			r.bury(id)
		}
		if time.Now().After(until) {
			return
		}
	}
}

// create creates a file of an id: an entry, or a member file.
func (r *roster) create(id, name string, text []byte) (*os.File, error) {
	file, err := r.now.Load().create(r.file(id+".new"), r.file(name), text, os.Rename)
	return file, unavailable("write "+r.file(name), err)
}

// follow opens what is at the path now, if somebody has removed and perhaps recreated it (R38).
func (r *roster) follow() error {
	h, err := openHandle(r.path, r.byDefault)
	if err == nil {
		r.former = append(r.former, r.now.Swap(h))
	}
	return err
}

// touchAll writes the token, then the former ones.
func (r *roster) touchAll() {
	r.now.Load().touch()
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

// describe returns a text about this process (R8).
func describe(more map[string]any) []byte {
	more["process"] = strings.ToValidUTF8(filepath.Base(os.Args[0]), "\\x??")
	more["pid"], more["language"] = os.Getpid(), "go"
	text, _ := json.Marshal(more)
	return text
}

// ---------------------------------------------------------------------------------------------------------
// The clock, and what the kernel knows of sockets and processes

// clock returns the machine's CLOCK_MONOTONIC in microseconds, or -1 if it cannot be determined (W8).
func clock() int64 {
	offset, known := timeOffset()
	if !known {
		return -1
	}
	var now syscall.Timespec
	syscall.Syscall(syscall.SYS_CLOCK_GETTIME, 1, uintptr(unsafe.Pointer(&now)), 0)
	return now.Nano()/1000 - offset
}

// timeOffset returns what the kernel adds to CLOCK_MONOTONIC in this process, in microseconds.
var timeOffset = sync.OnceValues(func() (offset int64, known bool) {
	own, err := os.Readlink("/proc/self/ns/time")
	if err != nil {
		return 0, true // no such namespaces here
	}
	children, _ := os.Readlink("/proc/self/ns/time_for_children")
	text, _ := os.ReadFile("/proc/self/timens_offsets")
	var seconds, nanoseconds int64
	n, _ := fmt.Sscanf(string(text), "monotonic %d %d", &seconds, &nanoseconds)
	return seconds*1e6 + nanoseconds/1000, n == 2 && children == own
})

// unread returns how many bytes the peer of a connection has not read.
func unread(conn *net.UnixConn) (pending int32) {
	withDescriptor(conn, func(fd uintptr) {
		syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&pending)))
	})
	return pending
}

// isStopped reports whether the process at the other end of a connection is seen not to run (R40).
func isStopped(conn *net.UnixConn) bool {
	var stat []byte
	withDescriptor(conn, func(fd uintptr) {
		if peer, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED); err == nil {
			stat, _ = os.ReadFile(fmt.Sprintf("/proc/%d/stat", peer.Pid))
		}
	})
	state := stat[bytes.LastIndexByte(stat, ')')+1:]
	return len(state) > 2 && strings.IndexByte("TtXZ", state[1]) >= 0
}

func withDescriptor(conn *net.UnixConn, use func(fd uintptr)) {
	if raw, err := conn.SyscallConn(); err == nil {
		raw.Control(use)
	}
}

// ---------------------------------------------------------------------------------------------------------
// The connection: ZMTP 3.0 (https://rfc.zeromq.org/spec/23/) without security

const (
	longFlag   = 2 // the length has 8 bytes
	command    = 4
	headBytes  = 9 // flags and length
	greetBytes = 64
	readyBytes = 4096 // at most
	ready      = "\x05READY"
	noSecurity = "NULL\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
)

// newFrame returns the head of a frame, and room for its body; seal completes it.
func newFrame(size int) []byte { return make([]byte, headBytes, headBytes+size) }

func seal(frame []byte, flags byte) []byte {
	frame[0] = longFlag | flags
	binary.BigEndian.PutUint64(frame[1:], uint64(len(frame)-headBytes))
	return frame
}

// readFrame reads a frame of so many bytes at most.
func readFrame(in *bufio.Reader, most int) (body []byte, flags byte, err error) {
	head, err := in.Peek(2)
	if err == nil && head[0]&longFlag != 0 {
		head, err = in.Peek(headBytes)
	}
	if err != nil {
		return nil, 0, err
	}
	flags, size := head[0], uint64(head[1])
	if flags&longFlag != 0 {
		size = binary.BigEndian.Uint64(head[1:])
	}
	in.Discard(len(head))
	if size > uint64(most) {
		return nil, 0, fmt.Errorf("a frame of %d bytes, where %d are allowed", size, most)
	}
	body = make([]byte, size)
	_, err = io.ReadFull(in, body)
	return body, flags, err
}

// readMessage reads the next frame that is no command; it is empty if there is an error.
func readMessage(in *bufio.Reader, most int) ([]byte, error) {
	for {
		body, flags, err := readFrame(in, most)
		if err != nil {
			return nil, err
		} else if flags&command == 0 {
			return body, nil
		}
	}
}

// handshake greets a peer as a socket of this type, and returns what it says after that.
func handshake(conn net.Conn, socketType string) (*bufio.Reader, error) {
	hello := append(make([]byte, 0, 128), "\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03\x00"+noSecurity...)
	hello = append(hello[:greetBytes], seal(fmt.Appendf(newFrame(64), "%s\x0bSocket-Type\x00\x00\x00%c%s",
		ready, len(socketType), socketType), command)...)
	if _, err := conn.Write(hello); err != nil {
		return nil, err
	}
	in, theirs := bufio.NewReaderSize(conn, 1<<16), make([]byte, greetBytes)
	if _, err := io.ReadFull(in, theirs); err != nil {
		return nil, err
	}
	if theirs[0] != 0xff || theirs[10] < 3 || string(theirs[12:32]) != noSecurity {
		return nil, errors.New("the peer does not speak ZMTP 3 without security")
	}
	body, flags, err := readFrame(in, readyBytes)
	if err == nil && (flags&command == 0 || !bytes.HasPrefix(body, []byte(ready))) {
		err = fmt.Errorf("the peer refuses: %q", body)
	}
	return in, err
}

// ---------------------------------------------------------------------------------------------------------
// Receiving: a subscription is an ingress of its own, and a goroutine reads each connection to it

// An Overflow says what a full queue means.
type Overflow int

const (
	Drop  Overflow = iota // events that have no room are lost, and counted
	Block                 // publishers wait; one slow subscriber holds up everybody who sends to it
)

// SubscribeOptions are those of Bus.Subscribe; a zero value is the default.
type SubscribeOptions struct {
	Kind     string    // selects only events whose kind matches this pattern: "*", all
	Overflow Overflow  // what happens when the queue is full: Drop
	Capacity int       // frames that the queue holds, events or whole batches: that of the bus
	OnGap    func(Gap) // is told of each gap as soon as it shows, by a goroutine that waits for that
}

// A Subscription receives events. Close it once you have stopped reading: it keeps its queue and, with Block,
// stalls publishers.
type Subscription struct {
	bus       *Bus
	system    string
	options   SubscribeOptions
	id, entry string // and the name of its entry
	greets    []byte // what each connection is told first: the prefixes, and the sentinel (R14)
	joined    chan struct{}
	listener  *net.UnixListener // under the lock of the bus
	socket    identity
	open      context.Context // ends when the subscription closes
	end       func()          // closes it, and waits until what had arrived is in the queue
	serving   sync.WaitGroup

	queue chan []Event // closed when no more events come
	bytes atomic.Int64 // in the queue

	mu   sync.Mutex
	rest []Event // of a batch that Receive has begun

	hearing                   sync.Mutex
	decoder                   *Decoder
	received, lost, malformed atomic.Uint64
}

const capacityBytes = 64 << 20 // that may wait in a queue

// Receive returns the next event. It waits for one until ctx ends; with a ctx that has ended it returns what
// has arrived already. Several goroutines may share a subscription: each event goes to one of them.
//
// Its errors are of kind Timeout (the deadline of ctx; retryable, nothing is lost), and Canceled: ctx was
// canceled, or the subscription or its bus is closed and everything that had arrived was received.
func (s *Subscription) Receive(ctx context.Context) (Event, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.rest) == 0 {
		s.mu.Unlock()
		events, err := s.next(ctx)
		s.mu.Lock()
		if err != nil {
			return Event{}, err
		}
		s.bytes.Add(-size(events))
		s.rest = append(events, s.rest...) // others may have added theirs
	}
	evt := s.rest[0]
	s.rest = s.rest[1:]
	s.received.Add(1)
	return evt, nil
}

// next takes a frame's events out of the queue.
func (s *Subscription) next(ctx context.Context) (events []Event, err error) {
	open := false
	select {
	case events, open = <-s.queue:
	default:
		select {
		case events, open = <-s.queue:
		case <-ctx.Done():
			return nil, ended(ctx, "no event arrived")
		}
	}
	if !open {
		return nil, canceled("the subscription")
	}
	return events, nil
}

func size(events []Event) (bytes int64) {
	for _, evt := range events {
		bytes += int64(len(evt.Data) + len(evt.Bytes))
	}
	return bytes
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
func (s *Subscription) Received() uint64 { return s.received.Load() }

// Lost returns how many events were lost so far: those that a full queue had no room for, here or at a
// publisher, and those that a broken connection took.
func (s *Subscription) Lost() uint64 { return s.lost.Load() }

// Malformed returns how many frames arrived that were none. Their sender has a bug.
func (s *Subscription) Malformed() uint64 { return s.malformed.Load() }

// Close leaves the bus. What has arrived can still be received; then Receive returns Canceled. Closing twice
// is fine.
func (s *Subscription) Close() error {
	s.bus.leave(s)
	s.end()
	return nil
}

// listen binds the socket, and gives it its name once it listens (R9). A former socket closes.
func (s *Subscription) listen() error {
	r := s.bus.roster
	scratch, path := r.file(s.id+".new"), r.file(s.id+".sock")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: scratch, Net: "unix"})
	if err != nil {
		return unavailable("listen at "+scratch, err)
	}
	listener.SetUnlinkOnClose(false)
	if err = os.Chmod(scratch, r.now.Load().rights.file); err == nil {
		err = os.Rename(scratch, path)
	}
	if err != nil {
		listener.Close()
		removeOurs(scratch)
		return unavailable("name "+path, err)
	}
	if s.listener != nil {
		s.listener.Close()
	}
	s.listener, s.socket = listener, identify(path)
	s.serving.Add(1)
	go s.accept(listener)
	return nil
}

// accept serves whoever connects, until the listener is closed.
func (s *Subscription) accept(listener *net.UnixListener) {
	defer s.serving.Done()
	defer context.AfterFunc(s.open, func() { listener.Close() })()
	for {
		conn, err := listener.AcceptUnix()
		switch {
		case err == nil:
			s.serving.Add(1)
			go s.serve(conn)
		case errors.Is(err, net.ErrClosed):
			return
		default: // there are no descriptors
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// serve reads a connection until it ends. When the subscription closes, that is once everything is read.
func (s *Subscription) serve(conn *net.UnixConn) {
	defer s.serving.Done()
	defer conn.Close()
	defer context.AfterFunc(s.open, func() { conn.CloseRead() })()
	in, err := handshake(conn, "SUB")
	if err == nil {
		_, err = conn.Write(s.greets)
	}
	<-s.joined // no frame is looked at before
	for err == nil {
		var frame []byte
		if frame, err = readMessage(in, s.bus.options.MaxEventBytes); len(frame) > 0 && frame[0] != control {
			s.take(frame)
		}
	}
	if !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		slog.Warn("zbus: a connection to a subscription has ended", "reason", err)
	}
}

// take queues the events of a frame. What has no room is lost and counted, or waits for room.
func (s *Subscription) take(frame []byte) {
	s.hearing.Lock()
	events, gaps := s.decoder.Decode(frame)
	events, gaps = slices.Clone(events), slices.Clone(gaps)
	s.malformed.Store(s.decoder.Malformed)
	s.hearing.Unlock()
	if n := uint64(len(events)); n > 0 && !s.push(events) {
		evt := &events[0]
		gaps = append(gaps, Gap{evt.Origin, evt.System, evt.Kind, evt.Seq, evt.Seq + n - 1})
	}
	for _, gap := range gaps {
		s.lost.Add(gap.Count())
		if s.options.OnGap != nil {
			s.options.OnGap(gap)
		}
	}
}

// push reports whether there was room in the queue. For Block, there will be, unless the subscription closes.
func (s *Subscription) push(events []Event) bool {
	bytes := size(events)
	if s.bytes.Add(bytes) <= capacityBytes || len(s.queue) == 0 || s.options.Overflow == Block {
		select {
		case s.queue <- events:
			return true
		default:
		}
	}
	if s.options.Overflow == Block {
		select {
		case s.queue <- events:
			return true
		case <-s.open.Done():
		}
	}
	s.bytes.Add(-bytes)
	return false
}

// announce writes the entry (R8).
func (s *Subscription) announce() error {
	file, err := s.bus.roster.create(s.id, s.entry, describe(map[string]any{
		"member": s.bus.id, "channels": 1,
		"patterns": [][]string{{s.system, s.options.Kind, overflows[s.options.Overflow]}},
	}))
	file.Close()
	return err
}

// withdraw removes the subscription from the directory (R18).
func (s *Subscription) withdraw() {
	removeOurs(s.bus.roster.file(s.entry))
	removeOurs(s.bus.roster.file(s.id + ".sock"))
}

// ---------------------------------------------------------------------------------------------------------
// Sending: a link to each ingress with a queue of its own, numbers, marks

// A publisher sends for one bus. Everything in it, and in its links, is used under its lock.
type publisher struct {
	bus     *Bus
	mu      sync.Mutex
	closed  bool
	changed chan struct{} // closed, and replaced, when there is something new for a Send that waits
	links   map[string]*link
	serving sync.WaitGroup
	version int // of the links, and of what they have subscribed

	known, listed view  // of the roster: at which the links are settled, and of the latest listing
	settled       int64 // the time of W37
	generation    int   // of the settling

	origin string
	topics map[topicKey]*topic
	sends  int // frames so far
	looked int // frames up to the last look
}

type topicKey struct{ system, kind string }

type topic struct {
	origin      string
	born        int64
	seq         uint64
	head, stamp string // system NUL kind NUL; .born.settled.first.
	generation  int    // of the stamp

	version  int     // of the links, at which these were chosen:
	audience []*link // they have subscribed the topic
	absent   []*link // they were given up, or are not connected, and what they miss is not known
}

// frame makes a frame with the next number of a topic.
func (t *topic) frame(intro, stamp, path string, data []byte) []byte {
	frame := newFrame(len(intro) + len(t.head) + len(path) + len(t.origin) + len(stamp) + len(data) + 48)
	frame = append(append(append(append(frame, intro...), t.head...), path...), 0)
	frame = append(append(frame, t.origin...), '.')
	frame = append(strconv.AppendUint(frame, t.seq+1, 10), stamp...)
	frame = append(strconv.AppendInt(frame, time.Now().UnixMicro(), 10), 0)
	return seal(append(frame, data...), 0)
}

const (
	twin        = "\xff#" // W47
	blockFrames = 1000    // that may wait for a `block` ingress
)

// mark makes a mark, or its twin, about the events with a stamp (W46).
func (t *topic) mark(intro, stamp string) []byte { return t.frame(intro, stamp, "", []byte("[]")) }

// A link is the connection to one ingress.
type link struct {
	id, path      string
	overflow      Overflow
	epoch, shown  uint64
	missed        uint64 // the epoch that was given up, until it is shown
	handle        *handle
	conn          *net.UnixConn // nil while there is none
	greeted       bool
	prefixes      map[string]bool
	queue         [][]byte
	frames, bytes int // in the queue, and on the way to the kernel
	most          int // frames that may be
	work          sync.Cond
	owed          map[mark]bool // marks of what was sent since the last ones; whether it has missed any of that
	paying        bool          // whether they go as soon as there is room
	since, due    time.Time     // when the wait for its epoch began, and when to check it next
	pause         time.Duration
}

type mark struct {
	topic *topic
	stamp string
}

func (l *link) awaited() bool { return l.shown < l.epoch && l.missed < l.epoch }

// expect begins the wait for an epoch.
func (l *link) expect(epoch uint64) {
	l.epoch, l.since, l.pause = epoch, time.Now(), 5*time.Millisecond
	l.due = l.since.Add(l.pause)
}

func (l *link) selects(topic string) bool {
	for prefix := range l.prefixes {
		if strings.HasPrefix(topic, prefix) {
			return true
		}
	}
	return false
}

func (l *link) fits(frame []byte) bool {
	return l.frames == 0 || l.frames < l.most && l.bytes+len(frame) <= capacityBytes
}

func (l *link) put(frame []byte) {
	l.queue = append(l.queue, frame)
	l.frames++
	l.bytes += len(frame)
	l.work.Signal()
}

// owe remembers that a mark has to follow the latest events of a topic.
func (l *link) owe(t *topic, missed bool) {
	if m := (mark{t, t.stamp}); len(l.owed) < maxTopics {
		l.owed[m] = missed || l.owed[m]
	}
}

// pay queues the marks that are owed (W46), as far as there is room.
func (l *link) pay() {
	l.paying = true
	for m := range l.owed {
		if l.shown < l.epoch || l.frames >= min(l.most, 1000) {
			return
		}
		delete(l.owed, m)
		if l.selects(m.topic.head) {
			l.put(m.topic.mark("", m.stamp))
			l.tell(m)
		}
	}
	l.paying = false
}

// tell queues the twin of a mark, if the link wants it.
func (l *link) tell(m mark) {
	if l.selects(twin) {
		l.put(m.topic.mark(twin, m.stamp))
	}
}

// send numbers and sends events of one topic; `data` is the data field.
func (p *publisher) send(ctx context.Context, system, kind, path string, data []byte, events int) error {
	if ctx.Err() != nil {
		return ended(ctx, "the event was not sent")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	sent, err := p.attempt(topicKey{system, kind}, path, data, events)
	for begun := time.Now(); !sent && err == nil; {
		if err = p.wait(ctx, begun); err == nil {
			sent, err = p.attempt(topicKey{system, kind}, path, data, events)
		}
	}
	return err
}

// wait waits for news, for a moment at most: the token may move as well.
func (p *publisher) wait(ctx context.Context, begun time.Time) error {
	timeout := p.bus.options.SendTimeout
	if _, own := ctx.Deadline(); ctx.Err() != nil {
		return ended(ctx, p.obstacle())
	} else if !own && time.Since(begun) >= timeout {
		return failure(Timeout, true, "%s within %v: the event was sent to nobody", p.obstacle(), timeout)
	}
	changed := p.changed
	p.mu.Unlock()
	defer p.mu.Lock()
	select {
	case <-changed:
	case <-ctx.Done():
	case <-time.After(5 * time.Millisecond):
	}
	return nil
}

// obstacle says what a send waited for.
func (p *publisher) obstacle() string {
	for id, l := range p.links {
		if l.awaited() {
			return "subscriber " + id + " did not finish joining"
		} else if l.overflow == Block && l.frames >= l.most {
			return "the full 'block' subscriber " + id + " made no room"
		}
	}
	return "a 'block' subscriber made no room"
}

// notify wakes every Send that waits.
func (p *publisher) notify() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// attempt tries once; it reports whether the frame was sent.
func (p *publisher) attempt(key topicKey, path string, data []byte, events int) (bool, error) {
	if p.closed {
		return false, canceled("the bus")
	}
	t := p.topics[key]
	var born int64
	if t == nil {
		if err := checkTopic(key.system, key.kind); err != nil {
			return false, err
		}
		born = clock() // before the token is compared (W8)
	}
	if p.bus.roster.view() != p.known {
		if settled, err := p.settle(); !settled {
			return false, err
		}
	}
	if t == nil {
		if p.origin == "" || len(p.topics) == maxTopics { // W35
			p.origin, p.topics = newID(), map[topicKey]*topic{}
		}
		t = &topic{origin: p.origin, born: born, head: key.system + "\x00" + key.kind + "\x00"}
		p.topics[key] = t
	}
	if t.version != p.version {
		p.choose(t)
	}
	if t.generation != p.generation {
		p.renew(t)
	}
	return p.emit(t, path, data, events)
}

// choose finds the links that a topic is for.
func (p *publisher) choose(t *topic) {
	t.version, t.audience, t.absent = p.version, nil, nil
	for _, l := range p.links {
		if l.selects(t.head) {
			t.audience = append(t.audience, l)
		}
		if l.shown < l.epoch {
			t.absent = append(t.absent, l)
		}
	}
}

// renew gives a topic the stamp of the latest settling, after a twin has told of what had the former one (W48).
func (p *publisher) renew(t *topic) {
	former := mark{t, t.stamp}
	for _, l := range t.audience {
		if missed, owed := l.owed[former]; owed {
			l.tell(former)
			if !missed {
				delete(l.owed, former)
			}
		}
	}
	t.generation, t.stamp = p.generation, "...."
	if t.born >= 0 && p.settled >= 0 {
		t.stamp = fmt.Sprintf(".%d.%d.%d.", t.born, p.settled, t.seq+1)
	}
}

// emit queues a frame for every link, or, if a `block` link has no room, for none: then it takes no number (R24).
func (p *publisher) emit(t *topic, path string, data []byte, events int) (bool, error) {
	frame := t.frame("", t.stamp, path, data)
	if size, most := len(frame)-headBytes, p.bus.options.MaxEventBytes; size > most {
		return false, invalid("the event has %d bytes of at most %d (max_event_bytes): send less, "+
			"or a reference to it", size, most)
	}
	for _, l := range t.audience {
		if l.overflow == Block && !l.fits(frame) {
			return false, nil
		}
	}
	for _, l := range t.audience {
		fits := l.fits(frame)
		if fits {
			l.put(frame)
		}
		if l.overflow == Drop {
			l.owe(t, !fits)
		}
	}
	for _, l := range t.absent {
		l.owe(t, true)
	}
	t.seq += uint64(events)
	p.sends++
	return true, nil
}

// settle brings the links up to date with the roster (R20). It reports whether that is done.
func (p *publisher) settle() (bool, error) {
	for range 10 {
		asof, now := clock(), p.bus.roster.view()
		if now != p.listed {
			if err := p.list(now.handle); err != nil {
				return false, err
			}
			p.listed = now
		}
		if p.checkAwaited() {
			return false, nil
		}
		if p.listed == now && p.bus.roster.view() == now {
			p.settled, p.known = asof, now
			p.generation++
			return true, nil
		}
	}
	return false, nil
}

// list connects the ingresses that are new on the roster, and lets go of those that are gone.
func (p *publisher) list(here *handle) error {
	entries, err := p.bus.roster.entries()
	if err != nil {
		return err
	}
	for id, l := range p.links {
		if _, listed := entries[id]; listed {
			l.handle = here
		} else if l.handle == here || l.shown == 0 { // otherwise it has yet to move to this directory (R39)
			delete(p.links, id)
			p.disconnect(l)
		}
	}
	for id, entry := range entries {
		l := p.links[id]
		switch {
		case l == nil && !p.bus.roster.alive(id):
			p.bus.roster.bury(id)
		case l == nil:
			if err := p.connect(entry, here); err != nil {
				return err
			}
		case entry.Epoch > l.epoch:
			l.expect(entry.Epoch)
			p.version++
		}
	}
	return nil
}

func (p *publisher) connect(entry FileName, here *handle) error {
	l := &link{
		id: entry.ID, path: p.bus.roster.file(entry.ID + ".sock"), handle: here,
		prefixes: map[string]bool{}, owed: map[mark]bool{}, most: p.bus.options.Capacity, work: sync.Cond{L: &p.mu},
	}
	if entry.Overflow == overflows[Block] {
		l.overflow, l.most = Block, min(l.most, blockFrames)
	}
	l.expect(entry.Epoch)
	err := p.dial(l)
	if err == nil {
		p.links[l.id] = l
		p.version++
	}
	return err
}

// dial opens the connection of a link. If the listener is busy or gone, that is no error: a check comes again.
func (p *publisher) dial(l *link) error {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: l.path, Net: "unix"})
	if errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT) {
		return nil
	} else if err != nil {
		return unavailable("connect to "+l.path, err)
	}
	l.conn = conn
	p.serving.Add(1)
	go p.serve(l, conn)
	return nil
}

// disconnect closes the connection of a link; what waited for it is lost.
func (p *publisher) disconnect(l *link) {
	if l.conn != nil {
		l.conn.Close()
	}
	l.conn, l.greeted, l.shown, l.queue, l.frames, l.bytes = nil, false, 0, nil, 0, 0
	clear(l.prefixes)
	l.work.Broadcast()
	p.version++
	p.notify()
}

// serve reads what an ingress subscribes, until the connection ends.
func (p *publisher) serve(l *link, conn *net.UnixConn) {
	defer p.serving.Done()
	defer conn.Close()
	in, err := handshake(conn, "XPUB")
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil && l.conn == conn {
		l.greeted = true
		p.serving.Add(1)
		go p.write(l, conn)
	}
	for err == nil && l.conn == conn {
		p.mu.Unlock()
		var body []byte
		body, err = readMessage(in, p.bus.options.MaxEventBytes)
		p.mu.Lock()
		if len(body) > 0 && l.conn == conn {
			p.hear(l, body[0] == 1, body[1:])
		}
	}
	if l.conn == conn {
		p.lose(l)
	}
}

// hear notes what an ingress has subscribed or unsubscribed (W25).
func (p *publisher) hear(l *link, added bool, topic []byte) {
	id, epoch, sentinel := ParseSentinel(topic)
	switch {
	case !sentinel && added:
		l.prefixes[string(topic)] = true
	case !sentinel:
		delete(l.prefixes, string(topic))
	case id != l.id:
		return
	case added:
		l.shown = max(l.shown, epoch)
		if l.missed > 0 && l.missed <= l.shown {
			l.missed = 0
			l.pay()
		}
	case epoch == l.shown: // not an older one
		l.shown, p.known = 0, view{}
		l.expect(l.epoch)
	}
	p.version++
	p.notify()
}

// lose notes that a connection has broken. The next Send settles again, before anything more is missed.
func (p *publisher) lose(l *link) {
	if l.shown >= l.epoch {
		l.expect(l.epoch)
	}
	p.disconnect(l)
	p.known = view{}
}

// write sends what is in the queue of a link, until the connection ends.
func (p *publisher) write(l *link, conn *net.UnixConn) {
	defer p.serving.Done()
	var batch net.Buffers
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		for l.conn == conn && len(l.queue) == 0 {
			l.work.Wait()
		}
		if l.conn != conn {
			return
		}
		count := min(len(l.queue), 256)
		batch = append(batch[:0], l.queue[:count]...)
		clear(l.queue[:count])
		l.queue = l.queue[count:]
		p.mu.Unlock()
		rest := batch
		size, err := rest.WriteTo(conn)
		p.mu.Lock()
		if l.conn != conn || err != nil {
			return // `serve` notices
		}
		l.frames -= count
		l.bytes -= int(size)
		if l.frames == 0 && l.paying {
			l.pay()
		}
		if l.overflow == Block {
			p.notify()
		}
	}
}

// checkAwaited checks a few of the links that are awaited: the dead are buried, and those whose time is over
// are given up (R21, R22). It reports whether any is still awaited.
func (p *publisher) checkAwaited() (waits bool) {
	now, checked := time.Now(), 0
	for id, l := range p.links {
		if l.awaited() && !now.Before(l.due) && checked < 4 {
			checked++
			l.pause = min(2*l.pause, 50*time.Millisecond)
			l.due = now.Add(l.pause)
			if !p.bus.roster.alive(id) {
				p.bus.roster.bury(id)
				p.listed = view{}
			} else if l.conn == nil {
				p.dial(l)
			}
			if p.isOver(l, now.Sub(l.since)) {
				l.missed = l.epoch
				p.version++
				slog.Warn("zbus: a subscriber did not finish joining: sends no longer wait for it", "ingress", id)
			}
		}
		waits = waits || l.awaited()
	}
	return waits
}

// isOver reports whether a joiner has had its time. A process that is stopped has one timeout, and one that is slow,
// or says nothing, ten: a slow machine must not cost a subscriber an event.
func (p *publisher) isOver(l *link, waited time.Duration) bool {
	options := &p.bus.options
	if l.overflow == Block { // a full or stopped one is not over (R22)
		return waited >= options.SendTimeout && !l.greeted && !(l.conn != nil && isStopped(l.conn))
	}
	return waited >= options.JoinTimeout && (waited >= 10*options.JoinTimeout || l.conn != nil && isStopped(l.conn))
}

// look is called now and then. It sends marks if nothing was sent since the last call (R58).
func (p *publisher) look() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.looked == p.sends {
		p.pay()
	}
	p.looked = p.sends
}

func (p *publisher) pay() {
	for _, l := range p.links {
		l.pay()
	}
}

// close sends the last marks, and waits until everybody has read everything, or until the deadline (R25, R59).
func (p *publisher) close(deadline time.Time) {
	p.mu.Lock()
	p.closed = true
	p.pay()
	for p.pending() && time.Now().Before(deadline) {
		p.mu.Unlock()
		time.Sleep(time.Millisecond)
		p.mu.Lock()
	}
	for _, l := range p.links {
		p.disconnect(l)
	}
	p.mu.Unlock()
	p.serving.Wait()
}

// pending reports whether something is on its way to a link that answers.
func (p *publisher) pending() bool {
	for _, l := range p.links {
		if l.conn != nil && l.missed == 0 && l.shown > 0 && (l.frames > 0 || len(l.owed) > 0 || unread(l.conn) > 0) {
			return true
		}
	}
	return false
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

const mostCapacity = 1 << 24

func (o *Options) complete() error {
	o.Bus = cmp.Or(o.Bus, os.Getenv("ZBUS_BUS"), "default")
	o.Capacity = cmp.Or(o.Capacity, 65536)
	o.MaxEventBytes = cmp.Or(o.MaxEventBytes, 16<<20)
	o.SendTimeout = cmp.Or(o.SendTimeout, 5*time.Second)
	o.JoinTimeout = cmp.Or(o.JoinTimeout, time.Second)
	o.Linger = cmp.Or(o.Linger, time.Second)
	if o.Capacity < 1 || o.Capacity > mostCapacity {
		return invalid("capacity is %d: give a number from 1 to %d", o.Capacity, mostCapacity)
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
	publisher *publisher

	id     string
	member *os.File // shows this process to people and tools (R29 to R31)

	mu            sync.Mutex
	closed        bool
	subscriptions map[*Subscription]bool
	stop, stopped chan struct{}
}

// Open opens a bus, and creates its directory if nobody has. Nil options are the defaults.
//
// Its errors are of kind Invalid (an option), PermissionDenied (the directory is not safe to use, or belongs to
// somebody else), and Unavailable (the operating system refused something).
func Open(options *Options) (*Bus, error) {
	b := &Bus{
		id: newID(), subscriptions: map[*Subscription]bool{}, stop: make(chan struct{}), stopped: make(chan struct{}),
	}
	if options != nil {
		b.options = *options
	}
	err := b.options.complete()
	if err != nil {
		return nil, err
	}
	byDefault := b.options.Dir == "" && os.Getenv("ZBUS_DIR") == ""
	if b.roster, err = openRoster(cmp.Or(b.options.Dir, DefaultRoot()), b.options.Bus, byDefault); err != nil {
		return nil, err
	}
	if err := b.createMember(); err != nil {
		b.roster.close()
		return nil, err
	}
	b.publisher = &publisher{
		bus: b, changed: make(chan struct{}), links: map[string]*link{}, topics: map[topicKey]*topic{},
	}
	b.roster.reap()
	go b.keepHouse()
	return b, nil
}

// createMember creates the member file. Its counters stay 0.
func (b *Bus) createMember() error {
	file, err := b.roster.create(b.id, b.id+".member", append(make([]byte, 128), describe(map[string]any{})...))
	if err == nil {
		b.member.Close() // a former one
		b.member = file
	}
	return err
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
	if err := checkText("path", path); err != nil {
		return err
	}
	field, err := encodeData(data)
	if err != nil {
		return err
	}
	return b.publisher.send(ctx, system, kind, path, field, 1)
}

// SendMany sends several events of one topic as one frame: they arrive, or are lost, together. That is several
// times cheaper than single events. Errors are those of Send; if there is one, nothing was sent.
func (b *Bus) SendMany(ctx context.Context, system, kind string, items []Item) error {
	if err := checkTopic(system, kind); err != nil || len(items) == 0 {
		return err
	}
	field, err := encodeItems(items)
	if err != nil {
		return err
	}
	return b.publisher.send(ctx, system, kind, "", field, len(items))
}

// Subscribe returns a subscription to the systems that a pattern selects; see Pattern. Every event that any
// process sends after that reaches it. Nil options are the defaults.
//
// Its errors are of kind Invalid (a pattern, an option), Canceled (ctx, or the bus is closed), PermissionDenied
// and Unavailable.
func (b *Bus) Subscribe(ctx context.Context, pattern string, options *SubscribeOptions) (*Subscription, error) {
	s := &Subscription{bus: b, system: pattern, id: newID(), joined: make(chan struct{})}
	if options != nil {
		s.options = *options
	}
	o := &s.options
	o.Kind, o.Capacity = cmp.Or(o.Kind, "*"), cmp.Or(o.Capacity, b.options.Capacity)
	systems, err := ParsePattern(pattern)
	kinds, wrong := ParsePattern(o.Kind)
	switch {
	case err != nil || wrong != nil:
		return nil, cmp.Or(err, wrong)
	case o.Capacity < 1 || o.Capacity > mostCapacity || o.Overflow != Drop && o.Overflow != Block:
		return nil, invalid("capacity %d, overflow %d: give a capacity from 1 to %d, and Drop or Block",
			o.Capacity, o.Overflow, mostCapacity)
	case ctx.Err() != nil:
		return nil, ended(ctx, "not subscribed")
	}
	for _, prefix := range append(Prefixes(systems, kinds), "\xff"+s.id+".1") {
		s.greets = append(s.greets, seal(append(append(newFrame(64), 1), prefix...), 0)...)
	}
	s.decoder = NewDecoder(systems, kinds, -1, -1, maxTopics)
	s.entry, s.queue = s.id+".1."+overflows[o.Overflow], make(chan []Event, o.Capacity)
	open, leave := context.WithCancel(context.Background())
	s.open, s.end = open, sync.OnceFunc(func() {
		leave()
		s.serving.Wait()
		close(s.queue)
	})
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, canceled("the bus")
	}
	if err := b.restore(true); err != nil {
		return nil, err
	}
	return s, b.join(s)
}

// join announces a subscription (R16): listen, then the entry, then the token.
func (b *Bus) join(s *Subscription) error {
	err := s.listen()
	if err != nil {
		return err
	}
	err = s.announce()
	announced := clock()
	if err == nil {
		err = b.roster.now.Load().touch()
	}
	s.decoder.setJoined(announced, clock())
	close(s.joined)
	if err != nil {
		s.withdraw()
		s.end()
		return err
	}
	if b.subscriptions[s] = true; len(b.subscriptions) == 1 {
		b.roster.reap()
	}
	return nil
}

// leave removes a subscription from the roster, once.
func (b *Bus) leave(s *Subscription) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.subscriptions[s] {
		delete(b.subscriptions, s)
		s.withdraw()
		b.roster.now.Load().touch()
	}
}

// restore creates again what somebody has removed of this process: the directory if it may, the member file,
// sockets and entries, with the same ids (R36 to R38). The lock is held.
func (b *Bus) restore(create bool) (err error) {
	r, moved := b.roster, false
	mend := func(missing bool, create func() error) {
		if missing && err == nil {
			err, moved = create(), true
		}
	}
	if !create && !exists(r.path) {
		return nil
	}
	mend(!r.now.Load().current(r.path), r.follow)
	mend(!leadsTo(r.file(b.id+".member"), b.member), b.createMember)
	for s := range b.subscriptions {
		mend(identify(r.file(s.id+".sock")) != s.socket, s.listen)
		mend(!exists(r.file(s.entry)), s.announce)
	}
	if moved {
		r.touchAll()
	}
	return err
}

// keepHouse has the publisher look whether it is at rest, and looks once a second whether others still find this
// process.
func (b *Bus) keepHouse() {
	defer close(b.stopped)
	ticks := time.NewTicker(200 * time.Millisecond)
	defer ticks.Stop()
	for n := 1; ; n++ {
		select {
		case <-b.stop:
			return
		case <-ticks.C:
		}
		b.publisher.look()
		if n%5 > 0 {
			continue
		}
		b.mu.Lock()
		if err := b.restore(false); err != nil {
			slog.Error("zbus: files of this process are missing, and it cannot create them again", "reason", err)
		}
		b.mu.Unlock()
	}
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
	for s := range b.subscriptions {
		s.withdraw()
	}
	if len(b.subscriptions) > 0 {
		b.roster.now.Load().touch()
	}
	b.mu.Unlock()
	close(b.stop)
	<-b.stopped
	b.publisher.close(time.Now().Add(b.options.Linger))
	for s := range b.subscriptions {
		s.end()
	}
	removeOurs(b.roster.file(b.id + ".member"))
	b.member.Close()
	b.roster.close()
	return nil
}
