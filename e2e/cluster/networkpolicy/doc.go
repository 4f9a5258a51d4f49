// Package networkpolicy enforces NetworkPolicies on one node of the embedded cluster, so that tests can show how the
// mesh gets on with them.
//
// [Compile] is a pure function from the cluster's objects to a [Ruleset]; the rest keeps the node's own nftables table
// equal to it. The table sees what is forwarded: to, from and between the node's pods, also those behind the same
// bridge (the cluster sets bridge-nf-call-iptables), after kube-proxy has chosen an endpoint. What the node itself
// sends, such as the kubelet's probes, passes no forward hook and is always allowed.
//
// What is refused is dropped, as most implementations do: the caller runs into its time-out.
//
// Not implemented, or other than a production implementation has it:
//   - A connection that is open stays open when a policy that would forbid it comes.
//   - A pod is known by its address from the moment the kubelet reports it. Until then (some 100 ms) nothing isolates a
//     new pod, and nobody who admits it by label knows it.
//   - Pods on the host's network are neither isolated nor matched by selectors; an ipBlock matches their node's address.
//   - A named port in an egress rule is looked up in pods alone, never in an ipBlock.
//   - The other node, and the machine, are callers like any other: only a pod's own node is exempt.
package networkpolicy
