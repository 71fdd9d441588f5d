//go:build ignore

// Subscribes to orders.** and sends an order every second. Run it twice, or beside a program in another
// language:
//
//	go run example.go
//	zbus sub 'orders.**'
//	zbus send orders order.created /orders/7 '{"total": 12.5}'
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"time"

	"example.com/zbus"
)

type order struct {
	Total float64 `json:"total"`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	bus, err := zbus.Open(nil)
	if err != nil {
		log.Fatal(err)
	}
	defer bus.Close()

	sub, err := bus.Subscribe(ctx, "orders.**", &zbus.SubscribeOptions{OnGap: func(gap zbus.Gap) {
		fmt.Printf("missed %d events of %s %s\n", gap.Count(), gap.System, gap.Kind)
	}})
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		for n := 1; ; n++ {
			path := fmt.Sprintf("/orders/%d-%d", os.Getpid(), n)
			err := bus.Send(ctx, "orders", "order.created", path, order{9.5})
			if errors.Is(err, zbus.Canceled) {
				return
			} else if err != nil {
				log.Print(err) // errors.Is(err, zbus.Timeout): a 'block' subscriber is full, try again
			}
			time.Sleep(time.Second)
		}
	}()
	for evt := range sub.Events(ctx) {
		var o order
		if err := evt.Decode(&o); err != nil {
			log.Print(err)
			continue
		}
		fmt.Println(evt.System, evt.Kind, evt.Path, o.Total)
	}
}
