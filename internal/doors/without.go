package doors

import (
	"bytes"
	"io"
)

// copyWithout copies a stream as it comes and puts something else in the place of
// the secrets. What may be the beginning of one is held back until it is known what
// follows.
func copyWithout(w io.Writer, r io.Reader, secrets []string) error {
	var waiting []byte
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		waiting = append(waiting, buf[:n]...)
		for _, secret := range secrets {
			waiting = scrub(waiting, secret)
		}
		send := len(waiting)
		if err == nil {
			send -= beginning(waiting, secrets)
		}
		if send > 0 {
			if _, err := w.Write(waiting[:send]); err != nil {
				return err
			}
			waiting = append(waiting[:0:0], waiting[send:]...)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// beginning is how many bytes at the end may be the beginning of a secret.
func beginning(data []byte, secrets []string) int {
	longest := 0
	for _, secret := range secrets {
		for n := min(len(secret)-1, len(data)); n > longest; n-- {
			if bytes.HasSuffix(data, []byte(secret[:n])) {
				longest = n
			}
		}
	}
	return longest
}
