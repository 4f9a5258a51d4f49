package networkpolicy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// State is everything that the rules depend on.
type State struct {
	Pods     []*corev1.Pod
	Policies []*networkingv1.NetworkPolicy
	// Namespaces holds the labels of each namespace.
	Namespaces map[string]labels.Set
}

// Ruleset is what a node's table holds. Two that are equal mean the same.
type Ruleset struct {
	// Chains return for what is allowed and end with a drop.
	Chains []Chain
	// Jumps lead from the address of an isolated pod to the chain that decides.
	Jumps []Jump
}

// Chain is the rules for one direction of one pod.
type Chain struct {
	Name  string
	Rules []string
}

// Jump says which chain decides about packets from (egress) or to (ingress) an address.
type Jump struct {
	Direction direction
	Address   netip.Addr
	Chain     string
}

type direction string

const (
	ingress direction = "ingress"
	egress  direction = "egress"
)

// peer is the field of a packet that holds the other side's address.
func (d direction) peer() string {
	if d == ingress {
		return "saddr"
	}
	return "daddr"
}

// rule is an ingress or an egress rule of a policy.
type rule struct {
	peers []networkingv1.NetworkPolicyPeer
	ports []networkingv1.NetworkPolicyPort
}

// Compile says what holds for the pods of a node.
func Compile(node string, state State) Ruleset {
	// Whoever is going away gives way to whoever got its address.
	pods := slices.Clone(state.Pods)
	slices.SortFunc(pods, func(a, b *corev1.Pod) int {
		if (a.DeletionTimestamp == nil) != (b.DeletionTimestamp == nil) {
			if a.DeletionTimestamp == nil {
				return -1
			}
			return 1
		}
		return strings.Compare(string(a.UID), string(b.UID))
	})
	state.Pods = slices.DeleteFunc(pods, func(pod *corev1.Pod) bool { return len(addresses(pod)) == 0 })
	policies := slices.SortedFunc(slices.Values(state.Policies), func(a, b *networkingv1.NetworkPolicy) int {
		return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	})

	var ruleset Ruleset
	taken := map[netip.Addr]bool{}
	for _, pod := range state.Pods {
		if pod.Spec.NodeName != node || slices.ContainsFunc(addresses(pod), func(a netip.Addr) bool { return taken[a] }) {
			continue
		}
		for _, address := range addresses(pod) {
			taken[address] = true
		}
		for _, direction := range []direction{ingress, egress} {
			rules, isolated := state.rulesFor(policies, pod, direction)
			if !isolated {
				continue
			}
			chain := Chain{Name: fmt.Sprintf("%s-%s", direction, pod.UID)}
			// A pod reaches itself through its Service, whatever its policies say.
			for _, own := range matches(direction, addresses(pod)) {
				chain.Rules = append(chain.Rules, own+" return")
			}
			for _, rule := range rules {
				for _, match := range state.compile(pod, direction, rule) {
					chain.Rules = append(chain.Rules, strings.TrimSpace(match+" return"))
				}
			}
			chain.Rules = append(chain.Rules, "drop")
			ruleset.Chains = append(ruleset.Chains, chain)
			for _, address := range addresses(pod) {
				ruleset.Jumps = append(ruleset.Jumps, Jump{direction, address, chain.Name})
			}
		}
	}
	return ruleset
}

// rulesFor collects what the policies that select a pod allow it; isolated is false where none does.
func (s State) rulesFor(policies []*networkingv1.NetworkPolicy, pod *corev1.Pod, direction direction) (rules []rule, isolated bool) {
	for _, policy := range policies {
		if policy.Namespace != pod.Namespace || !selects(&policy.Spec.PodSelector, pod.Labels) || !concerns(policy, direction) {
			continue
		}
		isolated = true
		if direction == ingress {
			for _, allowed := range policy.Spec.Ingress {
				rules = append(rules, rule{allowed.From, allowed.Ports})
			}
			continue
		}
		for _, allowed := range policy.Spec.Egress {
			rules = append(rules, rule{allowed.To, allowed.Ports})
		}
	}
	return rules, isolated
}

func concerns(policy *networkingv1.NetworkPolicy, direction direction) bool {
	wanted := networkingv1.PolicyTypeIngress
	if direction == egress {
		wanted = networkingv1.PolicyTypeEgress
	}
	return slices.Contains(policy.Spec.PolicyTypes, wanted)
}

// compile turns a rule into matches, each of which allows.
func (s State) compile(pod *corev1.Pod, direction direction, rule rule) []string {
	var blocks []string
	var peers []*corev1.Pod
	for _, peer := range rule.peers {
		if peer.IPBlock != nil {
			blocks = append(blocks, block(direction, peer.IPBlock)...)
		} else {
			peers = append(peers, s.peers(pod.Namespace, peer)...)
		}
	}
	anyone := len(rule.peers) == 0
	from := func(pods []*corev1.Pod) []string {
		var all []netip.Addr
		for _, pod := range pods {
			all = append(all, addresses(pod)...)
		}
		return matches(direction, all)
	}
	everywhere := append(slices.Clone(blocks), from(peers)...)
	if anyone {
		everywhere = []string{""}
	}
	if len(rule.ports) == 0 {
		return everywhere
	}

	var all []string
	combine := func(peers []string, port string) {
		for _, peer := range peers {
			all = append(all, strings.TrimSpace(peer+" "+port))
		}
	}
	for _, port := range rule.ports {
		protocol := corev1.ProtocolTCP
		if port.Protocol != nil {
			protocol = *port.Protocol
		}
		lower := strings.ToLower(string(protocol))
		switch {
		case port.Port == nil:
			combine(everywhere, "meta l4proto "+lower)
		case port.Port.Type == intstr.Int && port.EndPort != nil:
			combine(everywhere, fmt.Sprintf("%s dport %d-%d", lower, port.Port.IntVal, *port.EndPort))
		case port.Port.Type == intstr.Int:
			combine(everywhere, fmt.Sprintf("%s dport %d", lower, port.Port.IntVal))
		case direction == ingress:
			for _, number := range named(pod, protocol, port.Port.StrVal) {
				combine(everywhere, fmt.Sprintf("%s dport %d", lower, number))
			}
		default:
			// Each destination has its own number under that name.
			if anyone {
				peers = s.Pods
			}
			byNumber := map[int32][]*corev1.Pod{}
			for _, peer := range peers {
				for _, number := range named(peer, protocol, port.Port.StrVal) {
					byNumber[number] = append(byNumber[number], peer)
				}
			}
			for _, number := range slices.Sorted(maps.Keys(byNumber)) {
				combine(from(byNumber[number]), fmt.Sprintf("%s dport %d", lower, number))
			}
		}
	}
	return all
}

// peers are the pods that a peer of a rule means.
func (s State) peers(namespace string, peer networkingv1.NetworkPolicyPeer) []*corev1.Pod {
	var found []*corev1.Pod
	for _, pod := range s.Pods {
		if peer.NamespaceSelector == nil {
			if pod.Namespace != namespace {
				continue
			}
		} else if !selects(peer.NamespaceSelector, s.Namespaces[pod.Namespace]) {
			continue
		}
		if peer.PodSelector == nil || selects(peer.PodSelector, pod.Labels) {
			found = append(found, pod)
		}
	}
	return found
}

// block matches a network but for its exceptions.
func block(direction direction, block *networkingv1.IPBlock) []string {
	network, err := netip.ParsePrefix(block.CIDR)
	if err != nil {
		return nil
	}
	field, family := "ip "+direction.peer(), "ipv4"
	if network.Addr().Is6() {
		field, family = "ip6 "+direction.peer(), "ipv6"
	}
	match := fmt.Sprintf("%s %s", field, network.Masked())
	if network.Bits() == 0 {
		match = "meta nfproto " + family
	}
	for _, except := range block.Except {
		exception, err := netip.ParsePrefix(except)
		if err != nil {
			return nil
		}
		match += fmt.Sprintf(" %s != %s", field, exception.Masked())
	}
	return []string{match}
}

// matches are the conditions under which the peer has one of these addresses: at most one per family.
func matches(direction direction, all []netip.Addr) []string {
	slices.SortFunc(all, netip.Addr.Compare)
	all = slices.Compact(all)
	var found []string
	for _, family := range []struct {
		name string
		is   func(netip.Addr) bool
	}{{"ip", netip.Addr.Is4}, {"ip6", netip.Addr.Is6}} {
		var texts []string
		for _, address := range all {
			if family.is(address) {
				texts = append(texts, address.String())
			}
		}
		if len(texts) > 0 {
			found = append(found, fmt.Sprintf("%s %s { %s }", family.name, direction.peer(), strings.Join(texts, ", ")))
		}
	}
	return found
}

// addresses of a pod, as far as it has some of its own: none of a finished pod, whose addresses are another's by now.
func addresses(pod *corev1.Pod) []netip.Addr {
	if pod.Spec.HostNetwork || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return nil
	}
	var found []netip.Addr
	for _, ip := range pod.Status.PodIPs {
		if address, err := netip.ParseAddr(ip.IP); err == nil {
			found = append(found, address)
		}
	}
	return found
}

// named are the numbers of a pod's ports of this name.
func named(pod *corev1.Pod, protocol corev1.Protocol, name string) []int32 {
	var found []int32
	containers := slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers)
	for _, container := range containers {
		for _, port := range container.Ports {
			// The API server fills in the protocol.
			if port.Name == name && port.Protocol == protocol {
				found = append(found, port.ContainerPort)
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// selects evaluates a selector. One that does not parse, which the API server refuses, selects nothing.
func selects(selector *metav1.LabelSelector, set labels.Set) bool {
	parsed, err := metav1.LabelSelectorAsSelector(selector)
	return err == nil && parsed.Matches(set)
}
