package networkpolicy

import (
	"context"
	"fmt"
	"os/signal"
	"reflect"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	"sigs.k8s.io/knftables"
)

// Table is the name of the node's table. It goes with the node's network namespace.
const Table = "network-policy"

const (
	// batch is how long changes are gathered: pods of a rollout come together.
	batch = 50 * time.Millisecond
	// again is the pause after rules could not be written.
	again = time.Second
)

// NewCommand makes the command that enforces the policies on the node whose network namespace it runs in.
func NewCommand() *cobra.Command {
	var kubeconfig, node string
	command := &cobra.Command{
		Use:  "network-policy",
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			command.SilenceUsage = true
			ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			return run(ctx, kubeconfig, node)
		},
	}
	command.Flags().StringVar(&kubeconfig, "kubeconfig", "", "how the API server is reached")
	command.Flags().StringVar(&node, "node", "", "the name of this node")
	for _, flag := range []string{"kubeconfig", "node"} {
		if err := command.MarkFlagRequired(flag); err != nil {
			panic(err)
		}
	}
	return command
}

func run(ctx context.Context, kubeconfig, node string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	nft, err := knftables.New(knftables.InetFamily, Table)
	if err != nil {
		return err
	}

	changed := make(chan struct{}, 1)
	change := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { change() },
		UpdateFunc: func(any, any) { change() },
		DeleteFunc: func(any) { change() },
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	pods, namespaces, policies := factory.Core().V1().Pods(), factory.Core().V1().Namespaces(), factory.Networking().V1().NetworkPolicies()
	for _, informer := range []cache.SharedIndexInformer{pods.Informer(), namespaces.Informer(), policies.Informer()} {
		if _, err := informer.AddEventHandler(handler); err != nil {
			return err
		}
	}
	factory.Start(ctx.Done())
	for kind, synced := range factory.WaitForCacheSync(ctx.Done()) {
		if !synced {
			return fmt.Errorf("the list of %s did not come", kind)
		}
	}

	var written *Ruleset
	change()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
		state := State{Namespaces: map[string]labels.Set{}}
		if state.Pods, err = pods.Lister().List(labels.Everything()); err != nil {
			return err
		}
		if state.Policies, err = policies.Lister().List(labels.Everything()); err != nil {
			return err
		}
		known, err := namespaces.Lister().List(labels.Everything())
		if err != nil {
			return err
		}
		for _, namespace := range known {
			state.Namespaces[namespace.Name] = namespace.Labels
		}
		pause := batch
		if ruleset := Compile(node, state); written == nil || !reflect.DeepEqual(*written, ruleset) {
			if err := nft.Run(ctx, ruleset.transaction(nft)); err != nil {
				klog.ErrorS(err, "Rules not written: they are tried again")
				pause = again
				change()
			} else {
				klog.InfoS("Rules written", "isolated", len(ruleset.Chains))
				written = &ruleset
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// transaction replaces the table as a whole, in one step: at no moment are there no rules.
func (r Ruleset) transaction(nft knftables.Interface) *knftables.Transaction {
	tx := nft.NewTransaction()
	// Only what is there can be deleted.
	tx.Add(&knftables.Table{})
	tx.Delete(&knftables.Table{})
	tx.Add(&knftables.Table{Comment: knftables.PtrTo("NetworkPolicies of this node's pods")})
	for _, chain := range r.Chains {
		tx.Add(&knftables.Chain{Name: chain.Name})
		for _, rule := range chain.Rules {
			tx.Add(&knftables.Rule{Chain: chain.Name, Rule: rule})
		}
	}
	for _, direction := range []direction{egress, ingress} {
		tx.Add(&knftables.Map{Name: mapName(direction, 4), Type: "ipv4_addr : verdict"})
		tx.Add(&knftables.Map{Name: mapName(direction, 6), Type: "ipv6_addr : verdict"})
	}
	for _, jump := range r.Jumps {
		family := 6
		if jump.Address.Is4() {
			family = 4
		}
		tx.Add(&knftables.Element{
			Map:   mapName(jump.Direction, family),
			Key:   []string{jump.Address.String()},
			Value: []string{"jump " + jump.Chain},
		})
	}
	tx.Add(&knftables.Chain{
		Name:     "forward",
		Type:     knftables.PtrTo(knftables.FilterType),
		Hook:     knftables.PtrTo(knftables.ForwardHook),
		Priority: knftables.PtrTo(knftables.FilterPriority),
	})
	for _, rule := range []string{
		"ct state established,related accept",
		// Neighbours on one bridge ask each other for their addresses through this hook.
		"icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, nd-router-advert } accept",
		// The sender's side first; both must allow, so what one allows goes on to the other.
		"ip saddr vmap @" + mapName(egress, 4),
		"ip6 saddr vmap @" + mapName(egress, 6),
		"ip daddr vmap @" + mapName(ingress, 4),
		"ip6 daddr vmap @" + mapName(ingress, 6),
	} {
		tx.Add(&knftables.Rule{Chain: "forward", Rule: rule})
	}
	return tx
}

func mapName(direction direction, family int) string {
	return fmt.Sprintf("%s-%d", direction, family)
}
