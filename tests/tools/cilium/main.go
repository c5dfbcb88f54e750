// A reader of a store as a Cilium agent is one: Cilium's own etcd client, stores, decoders and
// validators read one cluster for a while. Printed are how often the client asks to be connected
// anew, its warnings, and the keys in which its stores and etcd differ at the end; the exit status
// says whether all are none.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/cilium/pkg/clustermesh/store"
	"github.com/cilium/cilium/pkg/clustermesh/types/endpointslice"
	"github.com/cilium/cilium/pkg/identity"
	"github.com/cilium/cilium/pkg/kvstore"
	kvstore_store "github.com/cilium/cilium/pkg/kvstore/store"
	node "github.com/cilium/cilium/pkg/node/store"
)

// warnings counts and prints what Cilium logs above INFO.
type warnings struct {
	slog.Handler
	count *atomic.Int64
}

func (w warnings) Handle(ctx context.Context, record slog.Record) error {
	if record.Level >= slog.LevelWarn {
		w.count.Add(1)
		return w.Handler.Handle(ctx, record)
	}
	return nil
}

func (w warnings) WithAttrs(attrs []slog.Attr) slog.Handler {
	return warnings{w.Handler.WithAttrs(attrs), w.count}
}

func (w warnings) WithGroup(name string) slog.Handler {
	return warnings{w.Handler.WithGroup(name), w.count}
}

// held has the keys of one store.
type held struct {
	mutex   sync.Mutex
	keys    map[string]bool
	updates atomic.Int64
}

func (h *held) OnUpdate(key kvstore_store.Key) {
	h.updates.Add(1)
	h.mutex.Lock()
	defer h.mutex.Unlock()
	h.keys[key.GetKeyName()] = true
}

func (h *held) OnDelete(key kvstore_store.NamedKey) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	delete(h.keys, key.GetKeyName())
}

func main() {
	config := flag.String("config", "", "etcd configuration file, as Cilium's")
	cluster := flag.String("cluster", "east", "cluster to read")
	id := flag.Uint("id", 1, "its id")
	seconds := flag.Int("seconds", 600, "how long to read")
	quiet := flag.Int("quiet", 5, "seconds after which stores and etcd are compared twice at most")
	flag.Parse()
	var logged atomic.Int64
	logger := slog.New(warnings{slog.NewTextHandler(os.Stderr, nil), &logged})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	backend, failed := kvstore.NewClient(ctx, logger, "etcd", map[string]string{
		"etcd.config": *config,
	}, kvstore.ExtraOptions{
		NoLockQuorumCheck:            true,
		NoEndpointStatusChecks:       true,
		ClusterName:                  *cluster,
		ClusterSizeDependantInterval: func(wait time.Duration) time.Duration { return wait },
		MaxConsecutiveQuorumErrors:   2,
	})
	if err := <-failed; err != nil {
		fmt.Println("not connected:", err)
		os.Exit(1)
	}
	var reconnects atomic.Int64
	go func() {
		for err := range backend.StatusCheckErrors() {
			reconnects.Add(1)
			fmt.Println("would connect anew:", err)
		}
	}()

	number := uint32(*id)
	kinds := map[string]kvstore_store.KeyCreator{
		"nodes": node.ValidatingKeyCreator(
			node.ClusterNameValidator(*cluster), node.NameValidator(), node.ClusterIDValidator(&number)),
		"services": store.KeyCreator(store.ClusterNameValidator(*cluster),
			store.NamespacedNameValidator(), store.ClusterIDValidator(&number)),
		"endpointslices": endpointslice.KeyCreator(endpointslice.ClusterNameValidator(*cluster),
			endpointslice.NamespacedNameValidator(), endpointslice.ClusterIDValidator(&number)),
		"ip": func() kvstore_store.Key { return &identity.IPIdentityPair{} },
	}
	factory := kvstore_store.NewFactory(logger, kvstore_store.MetricsProvider())
	manager := factory.NewWatchStoreManager(backend, *cluster)
	stores := map[string]*held{}
	for kind, creator := range kinds {
		h := &held{keys: map[string]bool{}}
		stores[kind] = h
		watch := factory.NewWatchStore(*cluster, creator, h)
		prefix := "cilium/cache/" + kind + "/v1"
		manager.Register(prefix, func(ctx context.Context) {
			watch.Watch(ctx, backend, prefix+"/"+*cluster)
		})
	}
	go manager.Run(ctx)
	time.Sleep(time.Duration(*seconds) * time.Second)

	different, updates := 0, int64(0)
	for kind, h := range stores {
		prefix := "cilium/cache/" + kind + "/v1/" + *cluster + "/"
		missing := compare(ctx, backend, prefix, kind, h)
		if len(missing) > 0 { // what is on its way
			time.Sleep(time.Duration(*quiet) * time.Second)
			missing = compare(ctx, backend, prefix, kind, h)
		}
		for _, key := range missing {
			fmt.Println("differs:", kind, key)
		}
		different += len(missing)
		updates += h.updates.Load()
		fmt.Printf("%s: %d keys, %d updates\n", kind, len(h.keys), h.updates.Load())
	}
	fmt.Printf("seconds %d, updates %d, reconnects %d, warnings %d, differences %d\n",
		*seconds, updates, reconnects.Load(), logged.Load(), different)
	if reconnects.Load()+logged.Load()+int64(different) > 0 || updates == 0 {
		os.Exit(1)
	}
}

// compare gives the keys that only one of the two has, as the store names them.
func compare(ctx context.Context, backend kvstore.BackendOperations, prefix, kind string, h *held) []string {
	pairs, err := backend.ListPrefix(ctx, prefix)
	if err != nil {
		return []string{err.Error()}
	}
	there := map[string]bool{}
	for key := range pairs {
		there[strings.TrimPrefix(key, prefix)] = true
	}
	h.mutex.Lock()
	defer h.mutex.Unlock()
	var only []string
	for key := range h.keys {
		name := key[strings.Index(key, "/")+1:]
		if kind == "ip" {
			name = key
		}
		if !there[name] {
			only = append(only, "reader "+name)
		}
		delete(there, name)
	}
	for name := range there {
		only = append(only, "etcd "+name)
	}
	sort.Strings(only)
	return only
}
