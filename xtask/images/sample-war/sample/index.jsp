<%@ page contentType="text/html; charset=UTF-8" %>
<!DOCTYPE html>
<html>
  <head><title>sample.war</title></head>
  <body>
    <h1>Hello from sample.war</h1>
    <p>Brought by an init container, served by <%= application.getServerInfo() %>
      at <%= request.getLocalAddr() %>; 6 times 7 is <%= 6 * 7 %>.</p>
  </body>
</html>
