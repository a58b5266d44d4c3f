// Package seal encrypts secrets at rest.
package seal

// Key seals and opens.
type Key struct{}
