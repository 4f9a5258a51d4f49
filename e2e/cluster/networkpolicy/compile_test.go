package networkpolicy

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/knftables"
)

// pod makes a pod of namespace/name on a node, whose only label but those given is app: <name>. Its last digit is that of its
// addresses.
func pod(node, name string, digit int) *corev1.Pod {
	namespace, app, _ := strings.Cut(name, "/")
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: app, UID: types.UID(app), Labels: map[string]string{"app": app}},
		Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{
			Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: int32(8000 + digit), Protocol: corev1.ProtocolTCP}},
		}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{
			{IP: fmt.Sprintf("10.0.0.%d", digit)}, {IP: fmt.Sprintf("fd00::%d", digit)},
		}},
	}
}

func policy(t *testing.T, spec string) *networkingv1.NetworkPolicy {
	t.Helper()
	policy := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "policy"}}
	if err := yaml.NewYAMLOrJSONDecoder(strings.NewReader(spec), 4096).Decode(&policy.Spec); err != nil {
		t.Fatal(err)
	}
	return policy
}

// shop is three pods of one namespace and one of another; reviews is the one on our node.
func shop(policies ...*networkingv1.NetworkPolicy) State {
	return State{
		Pods:       []*corev1.Pod{pod("a", "shop/reviews", 1), pod("b", "shop/page", 2), pod("b", "shop/ratings", 3), pod("b", "web/gate", 4)},
		Policies:   policies,
		Namespaces: map[string]labels.Set{"shop": {"team": "shop"}, "web": {"team": "web"}},
	}
}

func TestRulesOfAPod(t *testing.T) {
	own := []string{"ip saddr { 10.0.0.1 } return", "ip6 saddr { fd00::1 } return"}
	ownEgress := []string{"ip daddr { 10.0.0.1 } return", "ip6 daddr { fd00::1 } return"}
	for name, test := range map[string]struct {
		spec  string
		chain string
		rules []string
	}{
		"isolated by selection alone": {
			`{podSelector: {}, policyTypes: [Ingress]}`, "ingress-reviews", own,
		},
		"everybody": {
			`{podSelector: {}, policyTypes: [Ingress], ingress: [{}]}`, "ingress-reviews", append(slices.Clone(own), "return"),
		},
		"a pod of the namespace": {
			`{podSelector: {matchLabels: {app: reviews}}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {matchLabels: {app: page}}}]}]}`,
			"ingress-reviews", append(slices.Clone(own), "ip saddr { 10.0.0.2 } return", "ip6 saddr { fd00::2 } return"),
		},
		"a namespace": {
			`{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {matchLabels: {team: web}}}]}]}`,
			"ingress-reviews", append(slices.Clone(own), "ip saddr { 10.0.0.4 } return", "ip6 saddr { fd00::4 } return"),
		},
		"some pods of a namespace": {
			`{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {}, podSelector: {matchExpressions: [{key: app, operator: In, values: [gate, page]}]}}]}]}`,
			"ingress-reviews", append(slices.Clone(own), "ip saddr { 10.0.0.2, 10.0.0.4 } return", "ip6 saddr { fd00::2, fd00::4 } return"),
		},
		"a selector that nobody has admits nobody": {
			`{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {matchLabels: {app: none}}}]}]}`,
			"ingress-reviews", own,
		},
		"networks": {
			`{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: 10.1.2.3/8, except: [10.1.0.0/16, 10.2.0.0/16]}}, {ipBlock: {cidr: "::/0"}}]}]}`,
			"ingress-reviews", append(slices.Clone(own), "ip saddr 10.0.0.0/8 ip saddr != 10.1.0.0/16 ip saddr != 10.2.0.0/16 return", "meta nfproto ipv6 return"),
		},
		"ports": {
			`{podSelector: {}, policyTypes: [Ingress], ingress: [{ports: [{port: 80}, {port: 53, protocol: UDP}, {port: 90, endPort: 99}, {protocol: SCTP}, {port: web}, {port: none}]}]}`,
			"ingress-reviews", append(slices.Clone(own), "tcp dport 80 return", "udp dport 53 return", "tcp dport 90-99 return", "meta l4proto sctp return", "tcp dport 8001 return"),
		},
		"a named port of each destination": {
			`{podSelector: {matchLabels: {app: reviews}}, policyTypes: [Egress], egress: [{to: [{podSelector: {}}], ports: [{port: web}]}]}`,
			"egress-reviews", append(slices.Clone(ownEgress),
				"ip daddr { 10.0.0.1 } tcp dport 8001 return", "ip6 daddr { fd00::1 } tcp dport 8001 return",
				"ip daddr { 10.0.0.2 } tcp dport 8002 return", "ip6 daddr { fd00::2 } tcp dport 8002 return",
				"ip daddr { 10.0.0.3 } tcp dport 8003 return", "ip6 daddr { fd00::3 } tcp dport 8003 return"),
		},
	} {
		t.Run(name, func(t *testing.T) {
			ruleset := Compile("a", shop(policy(t, test.spec)))
			want := []Chain{{test.chain, append(slices.Clone(test.rules), "drop")}}
			if !slices.EqualFunc(ruleset.Chains, want, func(a, b Chain) bool { return a.Name == b.Name && slices.Equal(a.Rules, b.Rules) }) {
				t.Errorf("got %q\nwant %q", ruleset.Chains, want)
			}
		})
	}
}

func TestWhoIsIsolated(t *testing.T) {
	jumps := func(state State) string {
		var all []string
		for _, jump := range Compile("a", state).Jumps {
			all = append(all, fmt.Sprintf("%s %s", jump.Direction, jump.Address))
		}
		return strings.Join(all, ", ")
	}
	both := policy(t, `{podSelector: {}, policyTypes: [Ingress, Egress]}`)
	expect := func(name string, state State, want string) {
		t.Helper()
		if got := jumps(state); got != want {
			t.Errorf("%s: %q, not %q", name, got, want)
		}
	}
	expect("both directions, both families, this node alone", shop(both),
		"ingress 10.0.0.1, ingress fd00::1, egress 10.0.0.1, egress fd00::1")
	expect("nobody without a policy", shop(), "")
	other := both.DeepCopy()
	other.Namespace = "web"
	expect("nobody by a policy of another namespace", shop(other), "")
	expect("nobody who is not selected", shop(policy(t, `{podSelector: {matchLabels: {app: page}}, policyTypes: [Ingress]}`)), "")

	state := shop(both)
	state.Pods[0].Spec.HostNetwork = true
	expect("no pod on the host's network", state, "")
	state = shop(both)
	state.Pods[0].Status.Phase = corev1.PodSucceeded
	expect("no pod that has finished", state, "")

	// The address of one that is going away was given to another already.
	state = shop(policy(t, `{podSelector: {}, policyTypes: [Ingress]}`))
	state.Pods[0].DeletionTimestamp = &metav1.Time{}
	state.Pods = append(state.Pods, pod("a", "shop/successor", 1))
	ruleset := Compile("a", state)
	if len(ruleset.Chains) != 1 || ruleset.Chains[0].Name != "ingress-successor" {
		t.Errorf("%q", ruleset.Chains)
	}
}

func TestAPolicyAddsToAnother(t *testing.T) {
	deny := policy(t, `{podSelector: {}, policyTypes: [Ingress]}`)
	allow := policy(t, `{podSelector: {matchLabels: {app: reviews}}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {matchLabels: {app: page}}}]}]}`)
	allow.Name = "allow"
	one, other := Compile("a", shop(deny, allow)), Compile("a", shop(allow, deny))
	if fmt.Sprint(one) != fmt.Sprint(other) {
		t.Errorf("the order matters: %v, %v", one, other)
	}
	if rules := one.Chains[0].Rules; !slices.Contains(rules, "ip saddr { 10.0.0.2 } return") {
		t.Errorf("%q", rules)
	}
}

func TestTheTransactionReplacesTheTable(t *testing.T) {
	nft := knftables.NewFake(knftables.InetFamily, Table)
	policies := []*networkingv1.NetworkPolicy{policy(t, `{podSelector: {}, policyTypes: [Ingress, Egress]}`)}
	for range 2 {
		if err := nft.Run(context.Background(), Compile("a", shop(policies...)).transaction(nft)); err != nil {
			t.Fatal(err)
		}
	}
	found := nft.Table.Maps["ingress-4"].FindElement(netip.MustParseAddr("10.0.0.1").String())
	if found == nil || found.Value[0] != "jump ingress-reviews" {
		t.Errorf("%+v", found)
	}
	if err := nft.Run(context.Background(), Ruleset{}.transaction(nft)); err != nil {
		t.Fatal(err)
	}
	if len(nft.Table.Chains) != 1 {
		t.Errorf("chains are left: %v", nft.Table.Chains)
	}
}
