package zbus

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"
	"unicode/utf8"
)

func openBus(t *testing.T, dir string, options Options) *Bus {
	t.Helper()
	options.Dir = dir
	bus, err := Open(&options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { bus.Close() })
	return bus
}

func privateDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// Goroutines send, receive, join and leave at once, and every event that was sent is received or counted.
func TestEverythingAtOnce(t *testing.T) {
	ctx, dir := within(t), privateDir(t)
	const senders, each = 4, 500
	sending, receiving := openBus(t, dir, Options{}), openBus(t, dir, Options{})
	sub, err := receiving.Subscribe(ctx, "s.*", &SubscribeOptions{Overflow: Block, Capacity: 100})
	if err != nil {
		t.Fatal(err)
	}
	var all, others sync.WaitGroup
	done := make(chan struct{})
	for range 3 {
		start(&others, func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				brief, err := receiving.Subscribe(ctx, "s.**", &SubscribeOptions{OnGap: func(Gap) {}})
				if err != nil {
					t.Error(err)
					return
				}
				start(&all, func() { brief.Close() })
				for range brief.Events(ctx) {
					break
				}
			}
		})
	}
	for n := range senders {
		start(&all, func() {
			for i := range each {
				if err := sending.Send(ctx, fmt.Sprintf("s.%d", n), "k", "/p", i); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	next := map[string]int{}
	for range senders * each {
		evt, err := sub.Receive(ctx)
		var n int
		if err = errors.Join(err, evt.Decode(&n)); err != nil || n != next[evt.System] {
			t.Fatalf("%v, %v, not %d", err, evt, next[evt.System])
		}
		next[evt.System]++
	}
	close(done)
	others.Wait() // they add to `all`
	all.Wait()
	if sub.Lost() != 0 {
		t.Errorf("%d lost", sub.Lost())
	}
}

func TestWhatIsLostIsReported(t *testing.T) {
	ctx, bus, gaps := within(t), openBus(t, privateDir(t), Options{}), make(chan Gap, 10)
	sub, err := bus.Subscribe(ctx, "s", &SubscribeOptions{Capacity: 2, OnGap: func(gap Gap) { gaps <- gap }})
	if err != nil {
		t.Fatal(err)
	}
	for n := range 10 {
		if err := bus.Send(ctx, "s", "k", "/p", n); err != nil {
			t.Fatal(err)
		}
	}
	for want := uint64(3); want <= 10; want++ {
		if gap := <-gaps; gap.First != want || gap.Count() != 1 || sub.Lost() < want-2 {
			t.Error(gap, sub.Lost())
		}
	}
}

func TestContextsAndClosing(t *testing.T) {
	ctx, bus := within(t), openBus(t, privateDir(t), Options{})
	sub, err := bus.Subscribe(ctx, "s", nil)
	if err != nil {
		t.Fatal(err)
	}
	brief, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	if _, err := sub.Receive(brief); !errors.Is(err, Timeout) || !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := sub.Receive(canceled); !errors.Is(err, Canceled) || !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := bus.Send(canceled, "s", "k", "/p", nil); !errors.Is(err, Canceled) {
		t.Error(err)
	}
	bus.Send(ctx, "s", "k", "/p", "last")
	for sub.Received() == 0 {
		if _, err := sub.Receive(ctx); err != nil {
			t.Fatal(err)
		}
	}
	var waiting sync.WaitGroup
	for range 5 {
		start(&waiting, func() {
			if _, err := sub.Receive(ctx); !errors.Is(err, Canceled) {
				t.Error(err)
			}
		})
	}
	bus.Close()
	waiting.Wait()
	if err := bus.Send(ctx, "s", "k", "/p", nil); !errors.Is(err, Canceled) {
		t.Error(err)
	}
	if _, err := bus.Subscribe(ctx, "s", nil); !errors.Is(err, Canceled) {
		t.Error(err)
	}
	if sub.Close() != nil || bus.Close() != nil {
		t.Error("closing twice")
	}
}

type recursive struct{ Text, Other any }

func TestDataThatCannotBeSent(t *testing.T) {
	deep := any(1)
	for range 1023 {
		deep = []any{deep}
	}
	for _, data := range []any{
		math.NaN(), math.Inf(1), make(chan int), "a\xff", map[string]int{"\xff": 1}, []any{recursive{"ok", "\xff"}},
		json.RawMessage(`"\ud800"`), json.RawMessage("1e999"), json.RawMessage("1 2"), json.Number("1e999"), []any{[]any{deep}},
		struct{ Text json.RawMessage }{json.RawMessage(`"\udc00"`)},
	} {
		if frame, err := EncodeFrame("s", "k", "/p", "", data, nil); !errors.Is(err, Invalid) {
			t.Errorf("%v: %q, %v", data, frame, err)
		}
	}
	for _, data := range []any{"\ufffd", `\ufffd`, []any{deep}, json.RawMessage(`"\ufffd"`), "<&>\u2028", nil, []byte{0xff}} {
		if _, err := EncodeFrame("s", "k", "/p", "", data, nil); err != nil {
			t.Errorf("%v: %v", data, err)
		}
	}
	frame, _ := EncodeFrame("s", "k", "/p", "", "<&>", nil)
	if !slices.Equal(frame, []byte("s\x00k\x00/p\x00\x00\"<&>\"")) {
		t.Errorf("%q", frame)
	}
}

func start(group *sync.WaitGroup, run func()) {
	group.Add(1)
	go func() {
		defer group.Done()
		run()
	}()
}

// What isStrict takes, encoding/json takes as well. What else that takes, it changes: half pairs, bytes that are not
// UTF-8; or it cannot be read as a number.
func TestStrictJSON(t *testing.T) {
	seeds := []string{
		`{"a":[1,-2.5e3,0,"text ÄÖ",null,true,false],"b":{}}`, ` [ ] `, `"\ud83d\ude00 \u00e4 \\ \" \/ \b\f\n\r\t"`,
		`[[[[[[]]]]]]`, `{"k":"v","k2":[{"x":1E+2}]}`, `-0.0e-0`, `{"":""}`,
	}
	const letters = "{}[],:\"\\ud89cE+-.0127tfn \x00\xff"
	random := rand.New(rand.NewPCG(1, 2))
	taken, refused := 0, 0
	for range 300_000 {
		text := []byte(seeds[random.IntN(len(seeds))])
		for range random.IntN(3) {
			at := random.IntN(len(text))
			switch random.IntN(3) {
			case 0:
				text = slices.Delete(text, at, at+1)
			case 1:
				text[at] = letters[random.IntN(len(letters))]
			default:
				text = slices.Insert(text, at, text[random.IntN(len(text))])
			}
			if len(text) == 0 {
				break
			}
		}
		var value any
		readable := json.Unmarshal(text, &value) == nil
		again, _ := json.Marshal(value)
		switch strict := isStrict(text); {
		case strict && !readable:
			t.Fatalf("takes %q", text)
		case !strict && readable && utf8.Valid(text) && !bytes.Contains(again, []byte("\ufffd")):
			t.Fatalf("refuses %q", text)
		case strict:
			taken++
		default:
			refused++
		}
	}
	if taken < 50_000 || refused < 50_000 {
		t.Fatal(taken, refused)
	}
}
