// Package seal encrypts secrets at rest.
//
// A sealed value is AES-256-GCM under a random nonce, preceded by a version and
// the id of the key that made it, so that a value sealed under another key is
// recognised as such and not mistaken for a damaged one. The purpose (a column's
// name, say) is authenticated with it: a value copied from one column to another
// does not open.
package seal

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// Errors of Open.
var (
	// ErrKey means that the value was sealed under another key.
	ErrKey = errors.New("sealed under another key")
	// ErrDamaged means that the value was changed, cut, or sealed for another purpose.
	ErrDamaged = errors.New("sealed value is damaged or was sealed for another purpose")
)

const (
	version = 1
	keySize = 32
	idSize  = 4
)

// Key seals and opens. It is safe for concurrent use.
type Key struct {
	header []byte // version and key id
	aead   cipher.AEAD
}

// Parse reads a key of 32 random bytes in base64, of the standard or the URL
// alphabet, padded or not. Its errors never contain the key.
func Parse(text string) (*Key, error) {
	text = strings.TrimRight(strings.TrimSpace(text), "=")
	raw, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil {
		raw, err = base64.RawURLEncoding.DecodeString(text)
	}
	if err != nil {
		return nil, errors.New("the key is not base64")
	}
	if len(raw) != keySize {
		return nil, fmt.Errorf("the key has %d bytes instead of %d", len(raw), keySize)
	}
	block, err := aes.NewCipher(raw)
	if err != nil {
		return nil, fmt.Errorf("making the cipher: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("making the cipher: %w", err)
	}
	id := sha256.Sum256(append([]byte("openinspect key id:"), raw...))
	return &Key{header: append([]byte{version}, id[:idSize]...), aead: aead}, nil
}

// Seal encrypts plain for a purpose. Two calls with the same input differ.
func (k *Key) Seal(purpose string, plain []byte) []byte {
	return k.aead.Seal(bytes.Clone(k.header), nil, plain, []byte(purpose))
}

// Open decrypts what Seal made for the same purpose; it fails with ErrKey or ErrDamaged.
func (k *Key) Open(purpose string, sealed []byte) ([]byte, error) {
	if len(sealed) < len(k.header) || sealed[0] != version {
		return nil, ErrDamaged
	}
	if !bytes.Equal(sealed[:len(k.header)], k.header) {
		return nil, ErrKey
	}
	plain, err := k.aead.Open(nil, nil, sealed[len(k.header):], []byte(purpose))
	if err != nil {
		return nil, ErrDamaged
	}
	return plain, nil
}
