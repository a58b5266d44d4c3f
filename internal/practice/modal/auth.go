package modal

import (
	"context"
	"errors"
	"path"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	pb "github.com/modal-labs/modal-client/go/proto/modal_proto"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// How long tokens live.
const (
	authTokenTime    = 20 * time.Minute // the SDK renews at half of it
	routerTokenTime  = time.Hour
	connectTokenTime = 24 * time.Hour
)

// Purposes of tokens: one cannot be used as another.
const (
	forControl = "control"
	forRouter  = "router"
	forConnect = "connect"
)

type claims struct {
	jwt.RegisteredClaims
	Purpose string `json:"purpose"`
	Issue   int64  `json:"issue,omitempty"` // of a router's token: see RevokeRouterTokens
	Sandbox string `json:"sandbox,omitempty"`
	Port    int    `json:"port,omitempty"`
	Data    string `json:"data,omitempty"` // of the user, for X-Verified-User-Data
}

func (s *Server) sign(c claims, life time.Duration) (string, error) {
	c.ExpiresAt = jwt.NewNumericDate(time.Now().Add(life))
	return jwt.NewWithClaims(jwt.SigningMethodHS256, c).SignedString(s.key)
}

func (s *Server) verify(token, purpose string) (claims, error) {
	var c claims
	_, err := jwt.ParseWithClaims(token, &c, func(*jwt.Token) (any, error) { return s.key, nil },
		jwt.WithValidMethods([]string{"HS256"}), jwt.WithExpirationRequired())
	switch {
	case err != nil:
	case c.Purpose != purpose:
		err = errors.New("the token is for something else")
	case purpose == forRouter && c.Issue != s.routerIssue.Load():
		err = errors.New("the token was revoked")
	}
	return c, err
}

// RevokeRouterTokens has the routers refuse the tokens that were given out. For a
// caller whose clock is behind it is the same as that they have expired.
func (s *Server) RevokeRouterTokens() { s.routerIssue.Add(1) }

func header(ctx context.Context, name string) string {
	md, _ := metadata.FromIncomingContext(ctx)
	if values := md.Get(name); len(values) > 0 {
		return values[0]
	}
	return ""
}

// authenticate checks the credentials of a call: id and secret for the control
// plane, whose unary calls also carry the token of AuthTokenGet; for the router
// a token of its own.
func (s *Server) authenticate(ctx context.Context, method string, stream bool) error {
	if strings.HasPrefix(method, routerPrefix) {
		bearer, _ := strings.CutPrefix(header(ctx, "authorization"), "Bearer ")
		if _, err := s.verify(bearer, forRouter); err != nil {
			return status.Errorf(codes.Unauthenticated, "Invalid task command router token: %v", err)
		}
		return nil
	}
	id, secret := header(ctx, "x-modal-token-id"), header(ctx, "x-modal-token-secret")
	switch {
	case id == "" || secret == "":
		return status.Error(codes.Unauthenticated, "Token missing. Could not authenticate client. "+
			"If you have token credentials, see modal.com/docs/reference/modal.config for setup help.")
	case id != TokenID || secret != TokenSecret:
		return status.Errorf(codes.Unauthenticated, "Token ID and secret do not match, or the token %s was revoked. "+
			"Could not authenticate client.", id)
	case s.faults.take(path.Base(method), Refused) != nil:
		return status.Errorf(codes.Unauthenticated, "Token ID and secret do not match, or the token %s was revoked. "+
			"Could not authenticate client.", id)
	case stream || method == pb.ModalClient_AuthTokenGet_FullMethodName:
		return nil
	}
	if _, err := s.verify(header(ctx, "x-modal-auth-token"), forControl); err != nil {
		return status.Errorf(codes.Unauthenticated, "Invalid auth token: %v", err)
	}
	return nil
}

// routerAccess gives out the address and a token for a sandbox's router.
func (s *Server) routerAccess(sandboxID string) (*pb.CommandRouterAccess, error) {
	life := routerTokenTime
	if f := s.faults.take("", ExpiredToken); f != nil {
		life = -time.Second
	}
	token, err := s.sign(claims{Purpose: forRouter, Sandbox: sandboxID, Issue: s.routerIssue.Load()}, life)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "signing a token: %v", err)
	}
	return pb.CommandRouterAccess_builder{Jwt: token, Url: s.routerURL()}.Build(), nil
}

// AuthTokenGet gives the token that accompanies unary calls.
func (c *control) AuthTokenGet(context.Context, *pb.AuthTokenGetRequest) (*pb.AuthTokenGetResponse, error) {
	token, err := c.s.sign(claims{Purpose: forControl}, authTokenTime)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "signing a token: %v", err)
	}
	return pb.AuthTokenGetResponse_builder{Token: token}.Build(), nil
}
