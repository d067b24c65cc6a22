//go:build clients

// Package kubelet names the program that the kubelet test runs, so that go.sum holds what it is built from.
package kubelet

import _ "k8s.io/kubernetes/cmd/kubelet"
