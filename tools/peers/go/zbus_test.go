package zbus

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
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
	sub, err := receiving.Subscribe(ctx, "s.*", WithOverflow(Block), WithCapacity(100))
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
				brief, err := receiving.Subscribe(ctx, "s.**", OnGap(func(Gap) {}))
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

func TestWhatIsLostIsReportedInItsPlace(t *testing.T) {
	ctx, bus := within(t), openBus(t, privateDir(t), Options{})
	var gaps []Gap
	sub, err := bus.Subscribe(ctx, "s", WithCapacity(2), OnGap(func(gap Gap) { gaps = append(gaps, gap) }))
	if err != nil {
		t.Fatal(err)
	}
	for n := range 10 {
		if err := bus.Send(ctx, "s", "k", "/p", n); err != nil {
			t.Fatal(err)
		}
	}
	for sub.Lost() < 8 {
		time.Sleep(time.Millisecond)
	}
	for want := uint64(1); want <= 2; want++ {
		if evt, err := sub.Receive(ctx); err != nil || evt.Seq != want || len(gaps) > 0 {
			t.Fatal(evt, err, gaps)
		}
	}
	bus.Send(ctx, "s", "k", "/p", nil)
	evt, err := sub.Receive(ctx)
	if err != nil || evt.Seq != 11 || len(gaps) != 1 || gaps[0].First != 3 || gaps[0].Last != 10 {
		t.Fatal(evt, err, gaps)
	}
}

func TestContextsAndClosing(t *testing.T) {
	ctx, bus := within(t), openBus(t, privateDir(t), Options{})
	sub, err := bus.Subscribe(ctx, "s")
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
	if _, err := bus.Subscribe(ctx, "s"); !errors.Is(err, Canceled) {
		t.Error(err)
	}
	if sub.Close() != nil || bus.Close() != nil {
		t.Error("closing twice")
	}
}

// Whatever somebody removes of a bus is back within a second or so, under the same names.
func TestARemovedDirectoryIsCreatedAgain(t *testing.T) {
	ctx, dir := within(t), privateDir(t)
	one, two := openBus(t, dir, Options{}), openBus(t, dir, Options{})
	sub, err := one.Subscribe(ctx, "s")
	if err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		if n > 0 {
			if err := os.RemoveAll(one.roster.path); err != nil {
				t.Fatal(err)
			}
			newcomer := openBus(t, dir, Options{})
			for {
				if entries, _ := newcomer.roster.entries(); entries[sub.id].Epoch == 1 && newcomer.roster.alive(sub.id) {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			if err := newcomer.Send(ctx, "s", "k", "/p", n); err != nil {
				t.Fatal(err)
			}
			if evt, err := sub.Receive(ctx); err != nil || string(evt.Data) != fmt.Sprint(n) {
				t.Fatal(evt, err)
			}
		}
		if err := two.Send(ctx, "s", "k", "/p", n); err != nil {
			t.Fatal(err)
		}
		if evt, err := sub.Receive(ctx); err != nil || string(evt.Data) != fmt.Sprint(n) || sub.Lost() > 0 {
			t.Fatal(evt, err, sub.Lost())
		}
	}
}

// A publisher of more topics than an origin may have takes another one, and nothing is lost.
func TestManyTopics(t *testing.T) {
	ctx, bus := within(t), openBus(t, privateDir(t), Options{})
	sub, err := bus.Subscribe(ctx, "s.*", WithOverflow(Block))
	if err != nil {
		t.Fatal(err)
	}
	const topics = maxTopics + 5000
	go func() {
		for n := range topics {
			if err := bus.Send(ctx, fmt.Sprintf("s.%d", n), "k", "/p", nil); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	origins := map[string]int{}
	for range topics {
		evt, err := sub.Receive(ctx)
		if err != nil || evt.Seq != 1 {
			t.Fatal(evt, err)
		}
		origins[evt.Origin]++
	}
	if len(origins) != 2 || sub.Lost() > 0 {
		t.Error(origins, sub.Lost())
	}
}

// Another process of this program, as its environment says, instead of the tests.
func TestMain(m *testing.M) {
	ctx := context.Background()
	switch os.Getenv("ZBUS_TEST_ROLE") {
	case "send-and-exit":
		bus, _ := Open(nil)
		if err := bus.Send(ctx, "s", "k", "/p", 1); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case "receive":
		bus, _ := Open(nil)
		sub, _ := bus.Subscribe(ctx, "s")
		fmt.Println("joined")
		for {
			brief, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
			sub.Receive(brief)
			cancel()
			if n := sub.Received() + sub.Lost(); n >= stuckEvents {
				fmt.Println(n)
				bus.Close()
				os.Exit(0)
			}
		}
	}
	os.Exit(m.Run())
}

func another(t *testing.T, dir, role string) (*exec.Cmd, *bufio.Scanner) {
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), "ZBUS_DIR="+dir, "ZBUS_TEST_ROLE="+role)
	command.Stderr = os.Stderr
	out, err := command.StdoutPipe()
	if err = errors.Join(err, command.Start()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { command.Process.Kill() })
	return command, bufio.NewScanner(out)
}

func TestAProcessThatEndsAtOnceHasSent(t *testing.T) {
	ctx, dir := within(t), privateDir(t)
	sub, err := openBus(t, dir, Options{}).Subscribe(ctx, "s")
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		process, _ := another(t, dir, "send-and-exit")
		if err := process.Wait(); err != nil {
			t.Fatal(err)
		}
		if _, err := sub.Receive(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

const stuckEvents = 3000

// What waits for a stopped process is bounded, and what it misses is counted.
func TestAStoppedSubscriberCostsLittleMemory(t *testing.T) {
	ctx, dir := within(t), privateDir(t)
	bus := openBus(t, dir, Options{})
	process, lines := another(t, dir, "receive")
	if !lines.Scan() {
		t.Fatal("no subscriber")
	}
	data, before := make([]byte, 100_000), residentKilobytes()
	for n := range stuckEvents {
		if err := bus.Send(ctx, "s", "k", "/p", data); err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			process.Process.Signal(syscall.SIGSTOP)
		}
	}
	if grown := residentKilobytes() - before; grown > 200_000 { // of 300,000 that were sent
		t.Errorf("%d kB", grown)
	}
	process.Process.Signal(syscall.SIGCONT)
	if !lines.Scan() || lines.Text() != fmt.Sprint(stuckEvents) {
		t.Errorf("received and lost: %s", lines.Text())
	}
	process.Wait()
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

// What scanWhole takes, encoding/json takes, too.
func FuzzJSON(f *testing.F) {
	for _, text := range []string{`{"a":[1,-0.5e+3,"\ud83d\ude00\n"],"b":{}}`, "[", `"\u00`, "tru", " 1 ", "-"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if scanWhole(text, 0) && !json.Valid(text) {
			t.Errorf("taken: %q", text)
		}
		scanItems(text, nil)
	})
}

func start(group *sync.WaitGroup, run func()) {
	group.Add(1)
	go func() {
		defer group.Done()
		run()
	}()
}

func residentKilobytes() int {
	status, _ := os.ReadFile("/proc/self/status")
	_, after, _ := strings.Cut(string(status), "VmRSS:")
	kilobytes, _ := strconv.Atoi(strings.Fields(after)[0])
	return kilobytes
}
