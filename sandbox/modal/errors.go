package modal

import (
	"context"
	"errors"
	"fmt"

	sdk "github.com/modal-labs/modal-client/go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"openinspect/sandbox"
)

// errRefused is why nothing works until a person does something.
var errRefused = fmt.Errorf("%w: check MODAL_TOKEN_ID, MODAL_TOKEN_SECRET and MODAL_ENVIRONMENT", sandbox.ErrRefused)

// translate turns an error of the SDK into one that callers decide by. What is
// neither gone, full nor wrong stays as it is: it may go well another time.
// NotFound is said of whatever was asked for, and here taken for the box.
func translate(err error) error {
	for _, known := range []error{nil, sandbox.ErrGone, sandbox.ErrInvalid, sandbox.ErrCapacity, sandbox.ErrRefused} {
		if errors.Is(err, known) {
			return err
		}
	}
	var (
		notFound  sdk.NotFoundError
		finished  sdk.ConflictError
		exists    sdk.AlreadyExistsError
		wrong     sdk.InvalidError
		exhausted sdk.ResourceExhaustedError
	)
	switch {
	case errors.As(err, &notFound), errors.As(err, &finished):
		return fmt.Errorf("%w: %w", sandbox.ErrGone, err)
	case errors.As(err, &exists), errors.As(err, &wrong):
		return fmt.Errorf("%w: %w", sandbox.ErrInvalid, err)
	case errors.As(err, &exhausted):
		return fmt.Errorf("%w: %w", sandbox.ErrCapacity, err)
	}
	switch status.Code(err) {
	case codes.NotFound:
		return fmt.Errorf("%w: %w", sandbox.ErrGone, err)
	case codes.InvalidArgument, codes.AlreadyExists, codes.OutOfRange:
		return fmt.Errorf("%w: %w", sandbox.ErrInvalid, err)
	case codes.ResourceExhausted:
		return fmt.Errorf("%w: %w", sandbox.ErrCapacity, err)
	case codes.Unauthenticated, codes.PermissionDenied:
		return fmt.Errorf("%w (%w)", errRefused, err)
	case codes.Canceled:
		return fmt.Errorf("%w: %w", context.Canceled, err)
	case codes.DeadlineExceeded:
		return fmt.Errorf("%w: %w", context.DeadlineExceeded, err)
	}
	return err
}

// notGone keeps callers from taking something else that is missing for a box or
// a saved filesystem: they would give up what they had.
func notGone(err error) error {
	if errors.Is(err, sandbox.ErrGone) {
		return errors.New(err.Error())
	}
	return err
}
