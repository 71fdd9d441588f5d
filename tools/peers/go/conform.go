//go:build ignore

// The driver of the Go peer for tools/conform: a JSON line is a request, and one is its answer.
package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"example.com/zbus"
)

type fields = map[string]any

// A text may come as bytes, in hex, if JSON cannot carry it.
type names struct {
	System, Kind, Path *string
	SystemHex          *string `json:"system_hex"`
	KindHex            *string `json:"kind_hex"`
	PathHex            *string `json:"path_hex"`
	JSON, Hex          *string
}

// A request has the fields of every verb.
type request struct {
	names
	Verb, Bus, Name, Role, Overflow      string
	Stamp                                string
	Until                                json.RawMessage // a number, or for `stream` a path
	Capacity, Count, Bytes, Batch, Limit int
	MaxEventBytes                        int `json:"max_event_bytes"`
	Linger                               *float64
	SendTimeout                          *float64 `json:"send_timeout"`
	Timeout, Pause, Seconds, Interval    float64
	Tally                                bool
	Announced, Joined                    *int64
	Items                                []names
	Cases, Invalid                       []struct{ Pattern, Name string }
	Prefixes                             []struct{ System, Kind string }
	Frames, Files, Sentinels             []struct{ Hex string }
	Buses                                []struct{ Name string }
	Roots                                []struct{ Env map[string]string }
}

var (
	bus           *zbus.Bus
	options       zbus.Options
	subscriptions = map[string]*received{}
	background    = context.Background()
)

var verbs = map[string]func(*request) (fields, error){
	"hello": hello, "open": open, "close": closing, "busy": busy, "joins": joins,
	"patterns": patterns, "decode": decode, "encode": encode, "names": parseNames,
}

// These need an open bus.
var liveVerbs = map[string]func(*request) (fields, error){
	"subscribe": subscribe, "receive": receive, "slow": receive, "churn": churn,
	"send": send, "burst": burst, "stream": stream, "speed": speed, "echo": echo, "ping": ping,
}

func main() {
	lines, out := bufio.NewReader(os.Stdin), json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			break
		}
		out.Encode(answer(line))
	}
	if bus != nil {
		bus.Close()
	}
}

func answer(line []byte) fields {
	var r request
	if err := json.Unmarshal(line, &r); err != nil {
		return failed(err)
	}
	verb := verbs[r.Verb]
	if live := liveVerbs[r.Verb]; live != nil {
		if verb = live; bus == nil {
			return failed(&zbus.Error{Kind: zbus.Canceled, Message: "no bus is open: open one first"})
		}
	}
	if verb == nil {
		return fields{"unsupported": "there is no verb " + r.Verb}
	}
	said, err := verb(&r)
	if err != nil {
		return failed(err)
	}
	if said == nil {
		said = fields{}
	}
	said["ok"] = true
	return said
}

func failed(err error) fields {
	var known *zbus.Error
	if !errors.As(err, &known) {
		known = &zbus.Error{Kind: "Internal", Message: err.Error()}
	}
	return fields{"error": fields{"kind": string(known.Kind), "message": known.Message, "retryable": known.Retryable}}
}

// or returns what a pointer points to, if it is not nil.
func or[T any](value *T, otherwise T) T {
	if value != nil {
		return *value
	}
	return otherwise
}

// text returns a field that may have come in hex; a missing one is empty.
func text(plain, inHex *string) string {
	if inHex != nil {
		return string(unhex(*inHex))
	}
	return or(plain, "")
}

func unhex(text string) []byte {
	raw, _ := hex.DecodeString(text)
	return raw
}

// data returns the data of a request as a user would have it.
func (n *names) data() (any, error) {
	switch {
	case n.Hex != nil:
		return unhex(*n.Hex), nil
	case n.JSON == nil:
		return nil, nil
	}
	raw := json.RawMessage(*n.JSON)
	if _, err := zbus.EncodeFrame("s", "k", "/p", "", raw, nil); err != nil {
		return nil, err
	}
	var value any
	decoder := json.NewDecoder(strings.NewReader(*n.JSON))
	decoder.UseNumber()
	return value, decoder.Decode(&value)
}

func told(evt zbus.Event) fields {
	said := fields{"system": evt.System, "kind": evt.Kind, "path": evt.Path, "origin": evt.Origin, "seq": evt.Seq}
	if evt.Data != nil {
		said["json"] = string(evt.Data)
	}
	if evt.Bytes != nil {
		said["hex"] = hex.EncodeToString(evt.Bytes)
	}
	if !evt.Time.IsZero() {
		said["time"] = uint64(evt.Time.Unix())*1e6 + uint64(evt.Time.Nanosecond()/1000)
	}
	return said
}

// micros returns CLOCK_MONOTONIC, as the kit takes it.
func micros() int64 {
	var now syscall.Timespec
	syscall.Syscall(syscall.SYS_CLOCK_GETTIME, 1, uintptr(unsafe.Pointer(&now)), 0)
	return now.Nano() / 1000
}

// ---------------------------------------------------------------------------------------------------------
// The bus

func hello(*request) (fields, error) {
	library := "ZMTP 3.0 of its own, " + runtime.Version()
	return fields{"language": "go", "library": library, "pid": os.Getpid()}, nil
}

func pause(seconds float64) time.Duration { return time.Duration(seconds * float64(time.Second)) }

// timeout returns an option: 0 is the default, and negative is none.
func timeout(given *float64) time.Duration {
	if given != nil && *given == 0 {
		return -1
	}
	return pause(or(given, 0))
}

func open(r *request) (said fields, err error) {
	options = zbus.Options{
		Bus: r.Bus, Capacity: r.Capacity, MaxEventBytes: r.MaxEventBytes,
		Linger: timeout(r.Linger), SendTimeout: timeout(r.SendTimeout),
	}
	bus, err = zbus.Open(&options)
	return nil, err
}

func closing(r *request) (fields, error) {
	if r.Name != "" {
		return nil, subscriptions[r.Name].Close()
	}
	if bus == nil {
		return nil, nil
	}
	err := bus.Close()
	bus = nil
	return nil, err
}

// ---------------------------------------------------------------------------------------------------------
// Receiving

// received is a subscription, and what it has received so far.
type received struct {
	*zbus.Subscription
	open bool
}

func subscribe(r *request) (fields, error) {
	sub, err := newSubscription(r)
	if err == nil {
		subscriptions[r.Name] = &received{sub, true}
	}
	return nil, err
}

func newSubscription(r *request) (*zbus.Subscription, error) {
	options := zbus.SubscribeOptions{Kind: text(r.Kind, r.KindHex), Capacity: r.Capacity}
	if r.Overflow == "block" {
		options.Overflow = zbus.Block
	}
	return bus.Subscribe(background, text(r.System, r.SystemHex), &options)
}

// take returns the next event; it reports false if none comes in that time.
func (s *received) take(seconds float64) (zbus.Event, bool) {
	ctx, cancel := context.WithTimeout(background, pause(seconds))
	defer cancel()
	evt, err := s.Receive(ctx)
	if errors.Is(err, zbus.Canceled) {
		s.open = false
	}
	return evt, err == nil
}

// each visits events until there are `most`, or `until` received and lost, or nothing goes on.
func (s *received) each(most, until uint64, timeout float64, visit func(zbus.Event)) {
	look := timeout
	if until < math.MaxUint64 {
		look = 0.05
	}
	progress := func() uint64 { return s.Received() + s.Lost() + s.Malformed() }
	seen, at, got := progress(), time.Now(), uint64(0)
	for got < most && s.Received()+s.Lost() < until && s.open {
		if evt, good := s.take(look); good {
			got++
			visit(evt)
		}
		if now := progress(); now != seen {
			seen, at = now, time.Now()
		} else if time.Since(at).Seconds() >= timeout {
			return
		}
	}
}

// A tally says what the events of a burst were, without keeping them.
type tally struct {
	First   int  `json:"first"`
	Last    int  `json:"last"`
	Ordered bool `json:"ordered"`
	seen    map[[3]string]uint64
}

func (t *tally) add(evt zbus.Event) {
	stream := [3]string{evt.Origin, evt.System, evt.Kind}
	t.Ordered = t.Ordered && evt.Seq > t.seen[stream]
	t.seen[stream] = evt.Seq
	var data struct{ N int }
	if evt.Bytes == nil {
		evt.Decode(&data)
	}
	if t.Last = data.N; t.First == 0 {
		t.First = data.N
	}
}

// receive serves `slow` too: a pause after each event.
func receive(r *request) (fields, error) {
	sub := subscriptions[r.Name]
	most, until := cmp.Or(uint64(r.Count), math.MaxUint64), uint64(math.MaxUint64)
	if r.Until != nil {
		if err := json.Unmarshal(r.Until, &until); err != nil {
			return nil, err
		}
	}
	said, events, sum := fields{}, []fields{}, tally{Ordered: true, seen: map[[3]string]uint64{}}
	tallied := r.Tally || r.Verb == "slow"
	sub.each(most, until, r.Timeout, func(evt zbus.Event) {
		if tallied {
			sum.add(evt)
		} else {
			events = append(events, told(evt))
		}
		time.Sleep(pause(r.Pause))
	})
	if tallied {
		said["first"], said["last"], said["ordered"] = sum.First, sum.Last, sum.Ordered
	} else {
		said["events"] = events
	}
	said["received"], said["lost"], said["malformed"], said["open"] = sub.Received(), sub.Lost(), sub.Malformed(), sub.open
	return said, nil
}

func busy(r *request) (fields, error) {
	time.Sleep(pause(r.Seconds))
	return nil, nil
}

func churn(r *request) (fields, error) {
	rounds := []fields{}
	for range r.Count {
		sub, err := newSubscription(r)
		if err != nil {
			return nil, err
		}
		joined := micros()
		evt, good := (&received{sub, true}).take(r.Timeout)
		var data struct{ N, Prev int64 }
		if !good {
			return nil, &zbus.Error{Kind: zbus.Timeout, Message: "no event arrived", Retryable: true}
		} else if err := evt.Decode(&data); err != nil {
			return nil, err
		}
		rounds = append(rounds, fields{"joined": joined, "n": data.N, "prev": data.Prev, "lost": sub.Lost()})
		sub.Close()
	}
	return fields{"rounds": rounds}, nil
}

// ---------------------------------------------------------------------------------------------------------
// Sending

func send(r *request) (fields, error) {
	data, err := r.data()
	if err != nil {
		return nil, err
	}
	return nil, bus.Send(background, text(r.System, r.SystemHex), text(r.Kind, r.KindHex), text(r.Path, r.PathHex), data)
}

type counted struct {
	N   int    `json:"n"`
	Pad string `json:"pad,omitempty"`
}

func (r *request) topic() (system, kind, path string) {
	return text(r.System, nil), text(r.Kind, nil), cmp.Or(text(r.Path, nil), "/conform")
}

func burst(r *request) (fields, error) {
	system, kind, path := r.topic()
	pad, began := strings.Repeat("x", r.Bytes), time.Now()
	for n := 1; n <= r.Count; n += max(1, r.Batch) {
		var err error
		if r.Batch == 0 {
			err = bus.Send(background, system, kind, path, counted{n, pad})
		} else {
			var items []zbus.Item
			for i := n; i < n+r.Batch && i <= r.Count; i++ {
				items = append(items, zbus.Item{Path: path, Data: counted{i, pad}})
			}
			err = bus.SendMany(background, system, kind, items)
		}
		if err != nil {
			return nil, err
		}
		time.Sleep(pause(r.Interval))
	}
	return fields{"sent": r.Count, "seconds": time.Since(began).Seconds()}, nil
}

func stream(r *request) (fields, error) {
	var until string
	if err := json.Unmarshal(r.Until, &until); err != nil {
		return nil, err
	}
	system, kind, path := r.topic()
	before := int64(0)
	for n := 1; ; n++ {
		now := micros()
		if err := bus.Send(background, system, kind, path, map[string]int64{"n": int64(n), "at": now, "prev": before}); err != nil {
			return nil, err
		}
		before = now
		if _, err := os.Stat(until); err == nil {
			return fields{"sent": n}, nil
		}
		time.Sleep(pause(r.Interval))
	}
}

func joins(r *request) (fields, error) {
	system, kind, path := r.topic()
	took := []float64{}
	for n := 1; n <= r.Count; n++ {
		began := time.Now()
		bus, err := zbus.Open(&options)
		if err != nil {
			return nil, err
		}
		err = bus.Send(background, system, kind, path, counted{N: n})
		took = append(took, time.Since(began).Seconds())
		if bus.Close(); err != nil {
			return nil, err
		}
	}
	return fields{"seconds": took}, nil
}

// ---------------------------------------------------------------------------------------------------------
// Speed

func speed(r *request) (fields, error) {
	if r.Role == "send" {
		return burst(r)
	}
	var began time.Time
	for range r.Count {
		if _, err := subscriptions[r.Name].Receive(background); err != nil {
			return nil, err
		}
		if began.IsZero() {
			began = time.Now()
		}
	}
	return fields{"seconds": time.Since(began).Seconds()}, nil
}

func echo(r *request) (fields, error) {
	system, kind, _ := r.topic()
	for range r.Count {
		evt, err := subscriptions[r.Name].Receive(background)
		if err == nil {
			err = bus.Send(background, system, kind, evt.Path, evt.Data)
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func ping(r *request) (fields, error) {
	system, kind, path := r.topic()
	took := []float64{}
	for n := range r.Count {
		began := time.Now()
		err := bus.Send(background, system, kind, path, counted{N: n})
		if err == nil {
			_, err = subscriptions[r.Name].Receive(background)
		}
		if err != nil {
			return nil, err
		}
		took = append(took, float64(time.Since(began).Nanoseconds())/1000)
	}
	return fields{"micros": took}, nil
}

// ---------------------------------------------------------------------------------------------------------
// The rules, without a bus

func patterns(r *request) (fields, error) {
	matches, prefixes, refused := []any{}, []any{}, []bool{}
	for _, c := range r.Cases {
		if pattern, err := zbus.ParsePattern(c.Pattern); err == nil {
			matches = append(matches, pattern.Match(c.Name))
		} else {
			matches = append(matches, nil)
		}
	}
	for _, c := range r.Prefixes {
		system, err := zbus.ParsePattern(c.System)
		kind, wrong := zbus.ParsePattern(cmp.Or(c.Kind, "*"))
		if err != nil || wrong != nil {
			prefixes = append(prefixes, nil)
			continue
		}
		found := []string{}
		for _, prefix := range zbus.Prefixes(system, kind) {
			found = append(found, hex.EncodeToString([]byte(prefix)))
		}
		prefixes = append(prefixes, found)
	}
	for _, c := range r.Invalid {
		_, err := zbus.ParsePattern(c.Pattern)
		refused = append(refused, err != nil)
	}
	return fields{"matches": matches, "prefixes": prefixes, "refused": refused}, nil
}

func decode(r *request) (fields, error) {
	system, err := zbus.ParsePattern(text(r.System, nil))
	if err != nil {
		return nil, err
	}
	kind, err := zbus.ParsePattern(cmp.Or(text(r.Kind, nil), "*"))
	if err != nil {
		return nil, err
	}
	decoder := zbus.NewDecoder(system, kind, or(r.Announced, -1), or(r.Joined, -1), cmp.Or(r.Limit, 65536))
	rows := []fields{}
	for _, frame := range r.Frames {
		events, gaps, found := []fields{}, [][2]uint64{}, fields{}
		decoded, missing := decoder.Decode(unhex(frame.Hex))
		for _, evt := range decoded {
			events = append(events, told(evt))
		}
		for _, gap := range missing {
			gaps = append(gaps, [2]uint64{gap.First, gap.Last})
		}
		stamp := decoder.Stamp
		for name, value := range map[string]uint64{"born": stamp.Born, "settled": stamp.Settled, "first": stamp.First} {
			if value != zbus.Untold {
				found[name] = value
			}
		}
		found["events"], found["gaps"], found["lost"], found["malformed"] = events, gaps, decoder.Lost, decoder.Malformed
		rows = append(rows, found)
	}
	return fields{"frames": rows}, nil
}

func encode(r *request) (fields, error) {
	data, err := r.data()
	if err != nil {
		return nil, err
	}
	var items []zbus.Item
	for i := range r.Items {
		item, err := r.Items[i].data()
		if err != nil {
			return nil, err
		}
		items = append(items, zbus.Item{Path: text(r.Items[i].Path, r.Items[i].PathHex), Data: item})
	}
	frame, err := zbus.EncodeFrame(text(r.System, r.SystemHex), text(r.Kind, r.KindHex), text(r.Path, r.PathHex), r.Stamp, data, items)
	return fields{"hex": hex.EncodeToString(frame)}, err
}

func parseNames(r *request) (fields, error) {
	files, sentinels, buses, roots := []any{}, []any{}, []bool{}, []string{}
	for _, row := range r.Files {
		switch file, good := zbus.ParseFileName(text(nil, &row.Hex)); {
		case !good:
			files = append(files, nil)
		case file.Is == "entry":
			files = append(files, fields{"id": file.ID, "epoch": file.Epoch, "overflow": file.Overflow})
		default:
			files = append(files, fields{"is": file.Is})
		}
	}
	for _, row := range r.Sentinels {
		if id, epoch, good := zbus.ParseSentinel(unhex(row.Hex)); good {
			sentinels = append(sentinels, fields{"ingress": id, "epoch": epoch})
		} else {
			sentinels = append(sentinels, nil)
		}
	}
	for _, row := range r.Buses {
		buses = append(buses, zbus.ValidBus(row.Name))
	}
	for _, row := range r.Roots {
		roots = append(roots, root(row.Env))
	}
	return fields{"files": files, "sentinels": sentinels, "buses": buses, "roots": roots}, nil
}

func root(environment map[string]string) string {
	for _, name := range []string{"ZBUS_DIR", "XDG_RUNTIME_DIR", "TMPDIR", "TMP", "TEMP", "HOME"} {
		if before, there := os.LookupEnv(name); there {
			defer os.Setenv(name, before)
		} else {
			defer os.Unsetenv(name)
		}
		os.Unsetenv(name)
	}
	for name, value := range environment {
		os.Setenv(name, value)
	}
	return zbus.DefaultRoot()
}
